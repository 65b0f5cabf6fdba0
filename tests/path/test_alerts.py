"""Alerts of budgets: told once, signed, whichever gateway sees it first, and again until somebody hears it."""

import asyncio
import json
from dataclasses import replace

import pytest

from gateway.core.webhooks import signature, tenant_secret
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from tests.jobs.receivers import receiver
from tests.meter_events import event
from tests.servers.rules import a_budget, beside, declare
from tests.sql.budgeting import NOON, PRICES, paid
from tests.waiting import until

MASTER = "a-long-random-text"
JOBS = {
    "webhook_secret": MASTER,
    "allows_http_webhooks": True,
    "allows_private_webhooks": True,
    "webhook_pause_s": 0.05,
}


@pytest.fixture
async def path(start_path):
    async with start_path(count=1, jobs=JOBS) as path:
        yield path


def spend(path, number, tokens, **fields):
    """Have the Journal say that a request took so many tokens."""
    journal = SqlJournal(path.gateway._database)
    journal.append([event(number, tenant="acme", completion_tokens=tokens - 10, **fields)])


def said(told):
    return [json.loads(message.body) for message in told.messages]


def metric(path, outcome):
    name = f'sluice_budget_alerts_total{{outcome="{outcome}"}} '
    lines = path.gateway._metrics.render().decode().splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0)


async def test_each_percentage_is_told_once_signed_with_the_tenants_secret(path):
    async with receiver() as told:
        await declare(path, a_budget(100, kind="tokens", alert_percents="50,80,100", webhook_url=f"{told.url}/spent"))
        spend(path, 1, 60)
        await until(lambda: len(told.messages) == 1)
        spend(path, 2, 10)
        spend(path, 3, 15)
        await until(lambda: len(told.messages) == 2)
    assert [(each["percent"], each["spent"], each["amount"]) for each in said(told)] == [(50, 60, 100), (80, 85, 100)]
    first = said(told)[0]
    assert (first["type"], first["budget"], first["tenant"], first["is_hard"]) == (
        "budget.alert",
        "bud_1",
        "acme",
        True,
    )
    message = told.messages[0]
    expected = signature(
        tenant_secret(MASTER, "acme"),
        message.headers["webhook-id"],
        int(message.headers["webhook-timestamp"]),
        message.body,
    )
    assert message.headers["webhook-signature"] == expected
    await until(lambda: metric(path, "delivered") == 2)
    assert metric(path, "noted") == 2


async def test_several_gateways_tell_one(path):
    async with receiver() as told, beside(path) as second:
        await declare(path, a_budget(100, kind="tokens", alert_percents="50", webhook_url=told.url))
        await until(lambda: "bud_1" in second.gateway._directory.snapshot.budgets)
        spend(path, 1, 60)
        await until(lambda: told.messages)
        await until(lambda: all(each.gateway._alerts._known for each in (path, second)))
        assert metric(path, "noted") + metric(second, "noted") == 1
    assert len(told.messages) == 1


async def test_a_receiver_that_fails_is_told_again(path):
    async with receiver(500) as told:
        await declare(path, a_budget(100, kind="tokens", alert_percents="50", webhook_url=told.url))
        spend(path, 1, 60)
        await until(lambda: len(told.messages) == 2, within_s=15)
    assert len({message.headers["webhook-id"] for message in told.messages}) == 1


async def test_a_prepaid_balance_is_told_of_anew_after_each_top_up(path):
    SqlDirectory(path.gateway._database).put_prices(PRICES)
    store = SqlBudgets(path.gateway._database)
    async with receiver() as told:
        prepaid = {"kind": "prepaid", "alert_percents": "80", "webhook_url": told.url}
        await declare(path, a_budget(0, **prepaid))
        for turn in range(2):
            # 500 tokens cost a millionth; what is left of the first turn is in what the second begins with.
            payment = replace(paid(1_100 - turn * 60, f"invoice {turn}"), at_ms=NOON + turn)
            await asyncio.to_thread(store.transfer, payment)
            spend(path, turn, 510, model="m1", price="pri_1", cached_tokens=0, reasoning_tokens=0, prompt_tokens=10)
            await until(lambda turn=turn: len(told.messages) == turn + 1)
    assert [each["amount"] for each in said(told)] == ["0.0000011", "0.00000114"]


async def test_without_a_webhook_an_alert_is_noted_all_the_same(path):
    await declare(path, a_budget(100, kind="tokens", alert_percents="50"))
    spend(path, 1, 60)
    await until(lambda: metric(path, "noted") == 1)
