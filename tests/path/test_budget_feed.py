"""The running gateway's holds follow what the Journal says: spent, paid in, shipped by others, kept over a restart."""

import asyncio

import pytest

from gateway.composition import now_ms
from gateway.core.holds import Ask
from gateway.core.money import NANO
from gateway.core.prices import PriceVersion, Tier, Unit
from gateway.stores.budget_feed import BudgetFeed
from gateway.stores.memory_holds import MemoryHolds
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from tests.meter_events import event
from tests.servers.rules import a_budget, chat, client_of, declare
from tests.sql.budgeting import paid
from tests.waiting import until

PRICE = PriceVersion(id="pri_1", model="tiny", from_ms=0, tiers=(Tier(0, {Unit.OUTPUT: NANO // 100 * 10**6}),))


@pytest.fixture
async def path(start_path):
    async with start_path(count=1) as path:
        yield path


@pytest.fixture
async def client(path):
    async with client_of(path) as client:
        yield client


async def eventually(is_so, within_s=10.0):
    """Ask *is_so* again and again until it is."""
    async with asyncio.timeout(within_s):
        while not await is_so():
            await asyncio.sleep(0.05)


async def standing(path, holds=None):
    """Give how the budget stands at the gateway, or at other *holds*."""
    holding = path.gateway.edge._plane.holds
    budget = next(iter(path.gateway._directory.snapshot.budgets.values()))
    ask = holding._account(budget, 1_700_000_000_000, 0)
    return (await (holds or path.gateway._holds).standings(Ask(id="", tenant="acme", budgets=(ask,)))).budgets[0]


async def test_what_was_spent_moves_from_unshipped_to_spent_and_is_never_counted_twice_in_the_end(path, client):
    await declare(path, a_budget(1_000_000, kind="tokens"))
    answer = await chat(client)
    used = answer.json()["usage"]["total_tokens"]
    await path.events()

    async def is_posted():
        found = await standing(path)
        return (found.spent, found.unshipped, found.held) == (used, 0, 0)

    await eventually(is_posted)


async def test_what_another_gateway_shipped_counts_within_seconds(path, client):
    await declare(path, a_budget(1000, kind="tokens"))
    assert (await chat(client)).status_code == 200
    SqlJournal(path.gateway._database).append([event(7, tenant="acme", completion_tokens=990)])

    async def is_refused():
        return (await chat(client)).status_code != 200

    await eventually(is_refused)


async def test_a_prepaid_balance_admits_what_was_paid_in_and_no_more(path, client):
    SqlDirectory(path.gateway._database).put_prices([PRICE])
    await declare(path, a_budget(0, kind="prepaid"))
    refused = await chat(client)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    store = SqlBudgets(path.gateway._database)
    await asyncio.to_thread(store.transfer, paid(NANO // 2, "invoice 1"))

    async def is_admitted():
        return (await chat(client)).status_code == 200

    await eventually(is_admitted)  # 20 tokens at a hundredth each
    await path.events()
    await eventually(lambda: _is_spent(path, -NANO * 3 // 10))
    assert (await chat(client)).status_code == 200
    assert (await chat(client)).status_code != 200  # a tenth is left
    assert store.prove() == []


async def _is_spent(path, spent):
    found = await standing(path)
    return (found.spent, found.unshipped) == (spent, 0)


async def test_a_gateway_that_starts_goes_by_what_was_spent_before(path):
    await declare(path, a_budget(100, kind="tokens"))
    SqlJournal(path.gateway._database).append([event(7, tenant="acme", completion_tokens=990)])
    feed = BudgetFeed(SqlBudgets(path.gateway._database), path.gateway._directory, now_ms)
    holds = MemoryHolds("second", feed.read_bases)
    await feed.start(holds)
    assert (await standing(path, holds)).spent == 1000
    await feed.aclose()


async def test_what_a_dead_gateway_had_spent_is_dropped_once_the_journal_has_it(path):
    """Its sums stay until its spool was shipped; then the bases have them, and they are forgotten, in this order."""
    told = []

    class Listening(MemoryHolds):
        async def post(self, bases, shipped):
            told.append(("post", {base.spent for base in bases}))
            await super().post(bases, shipped)

        async def forget(self, owner, tenants):
            told.append(("forget", owner, set(tenants)))

    await declare(path, a_budget(1000, kind="tokens"))
    feed = BudgetFeed(SqlBudgets(path.gateway._database), path.gateway._directory, now_ms)
    await feed.start(Listening("second", feed.read_bases))
    SqlJournal(path.gateway._database).append([event(7, tenant="acme", completion_tokens=90)])
    feed.forget("dead-gateway")
    await until(lambda: ("forget", "dead-gateway", {"acme"}) in told)
    await feed.aclose()
    assert told.index(("post", {100})) < told.index(("forget", "dead-gateway", {"acme"}))
    assert [what for what, *_ in told].count("forget") == 1
