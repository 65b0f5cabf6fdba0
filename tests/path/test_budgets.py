"""What a budget lets through, what it holds meanwhile, what it says when it is used up."""

import asyncio
import json

import pytest

from gateway.core.periods import account
from gateway.core.prices import Tier, Unit
from tests.conformance.holds import ask
from tests.conformance.holds import budget as a_budget_ask
from tests.servers.prices import declare as declare_prices
from tests.servers.prices import version
from tests.servers.rules import LONG, a_budget, a_limit, beside, chat, client_of, declare, known
from tests.waiting import until

MILLI = 10**6  # nano-units
PRICE = version(tiers=(Tier(0, {Unit.INPUT: 10**9, Unit.OUTPUT: 10**9}),))  # 1,000 nano a token
TOKEN_NANO = 1000


@pytest.fixture
async def priced(start_path):
    async with start_path(count=1) as path, client_of(path) as client:
        await declare_prices(path, PRICE)
        yield path, client


async def standing_of(path, budget):
    """How the account of *budget* stands."""
    look = a_budget_ask(budget.amount, id=budget.id, account=account(budget.id, 0), kind=budget.kind)
    return (await path.gateway._holds.standings(ask(look))).budgets[0]


async def test_a_hard_budget_is_charged_what_the_journal_says(priced):
    path, client = priced
    budget = a_budget(10 * MILLI)
    await declare(path, budget)
    assert (await chat(client)).status_code == 200
    [event] = (await path.events()).values()
    standing = await standing_of(path, budget)
    assert standing.spent + standing.unshipped == event["cost_nano"] == standing.ask.amount - standing.available


async def test_a_hard_budget_refuses_what_could_cost_more_than_is_left(priced):
    path, client = priced
    await declare(path, a_budget(2 * MILLI))
    refused = await chat(client, max_tokens=3000)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert error["limit"]["available"] == 2 * MILLI
    assert error["limit"]["requested"] > 3000 * TOKEN_NANO
    assert (await chat(client, max_tokens=20)).status_code == 200


async def test_what_is_held_is_as_long_as_the_request(priced):
    path, client = priced
    budget = a_budget(10 * MILLI)
    await declare(path, budget)
    async with client.stream("POST", "/v1/chat/completions", json=LONG) as stream:
        parts = stream.aiter_bytes()  # the answer is hung up on when nobody holds this any more
        await anext(parts)
        assert (await standing_of(path, budget)).held > 2000 * TOKEN_NANO
    await until(lambda: not path.gateway._holds._sums.holds)
    assert (await standing_of(path, budget)).held == 0


async def test_on_a_hard_budget_a_request_without_max_tokens_gets_them(start_path):
    async with start_path(count=1, budgets={"max_tokens_default": 7}) as path, client_of(path) as client:
        await declare_prices(path, PRICE)
        await declare(path, a_budget(10 * MILLI))
        answer = await chat(client, max_tokens=None)
        assert answer.json()["usage"]["completion_tokens"] == 7


async def test_without_a_price_a_hard_budget_refuses_and_a_soft_one_lets_pass(start_path):
    async with start_path(count=1) as path, client_of(path) as client:
        soft, hard = a_budget(MILLI, is_hard=False), a_budget(MILLI)
        await declare(path, soft)
        assert (await chat(client)).status_code == 200
        assert (await standing_of(path, soft)).available == MILLI
        await declare(path, hard)
        refused = await chat(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_price")
        assert refused.headers["x-should-retry"] == "false"


async def test_what_has_no_bound_is_refused_by_a_hard_budget_alone(priced):
    path, client = priced
    parts = [{"type": "audio_url", "audio_url": {"url": "https://example.org/speech.wav"}}]
    messages = [{"role": "user", "content": parts}]
    await declare(path, a_budget(100 * MILLI))
    refused = await chat(client, messages=messages)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unbounded_cost")


async def test_a_quota_counts_tokens_and_needs_no_price(start_path):
    async with start_path(count=1) as path, client_of(path) as client:
        quota = a_budget(700, kind="tokens")
        await declare(path, quota)
        usage = (await chat(client)).json()["usage"]
        standing = await standing_of(path, quota)
        assert standing.spent + standing.unshipped == usage["total_tokens"]
        assert (await chat(client, max_tokens=700)).status_code == 429


async def test_a_soft_budget_ends_a_stream_within_a_slice_and_bills_what_was_delivered(priced):
    path, client = priced
    budget = a_budget(500 * TOKEN_NANO, is_hard=False)
    await declare(path, budget)
    answer = await chat(client, **LONG | {"max_tokens": 3000})
    [*_, last] = [line for line in answer.text.split("\n") if line.startswith("data: ")]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "insufficient_quota"
    [event] = (await path.events()).values()
    assert (event["outcome"], event["flag"]) == ("budget_ended", "delivered")
    assert 500 * TOKEN_NANO <= event["cost_nano"] <= (500 + 256) * TOKEN_NANO
    assert (await chat(client)).status_code == 429


async def test_a_request_refused_by_a_budget_has_cost_nothing_in_limits(priced):
    path, client = priced
    await declare(path, a_limit("requests", 12), a_budget(1))
    for _ in range(3):
        assert (await chat(client)).json()["error"]["code"] == "insufficient_quota"
    await declare(path, a_budget(100 * MILLI))
    assert (await chat(client)).status_code == 200


async def test_a_request_that_fails_costs_its_budget_nothing(priced):
    path, client = priced
    budget = a_budget(100 * MILLI)
    await declare(path, budget)
    await path.engines[0].fault(error_next=-1)
    assert (await chat(client)).status_code == 502
    standing = await standing_of(path, budget)
    assert (standing.held, standing.unshipped, standing.spent) == (0, 0, 0)


@pytest.mark.redis
async def test_three_gateways_and_a_nearly_empty_hard_budget(start_path, redis_url):
    worst_nano = 645_001  # of one request: its bytes, a template, and 20 tokens; each costs about 30
    budget = a_budget(5 * worst_nano)
    options = {"redis_url": redis_url, "queue": {"store_timeout_s": 10}}  # all three share one loop, and are slow
    async with start_path(count=1, **options) as path, beside(path) as second, beside(path) as third:
        paths = (path, second, third)
        await declare_prices(path, PRICE)
        await declare(path, budget)
        for other in paths[1:]:
            await known(other, budget)
        async with client_of(path) as a, client_of(second) as b, client_of(third) as c:
            answers = await asyncio.gather(*(chat((a, b, c)[number % 3]) for number in range(300)))
            while answers[-1].status_code == 200 or _is_held(answers[-1]):
                answers += await asyncio.gather(chat(a), chat(b), chat(c))
        costs = [int(answer.headers["x-sluice-cost-nano"]) for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert budget.amount - worst_nano < sum(costs) <= budget.amount


def _is_held(answer):
    return "are held by requests under way" in answer.json()["error"]["message"]


@pytest.mark.redis
async def test_a_job_is_held_and_settled_once(start_path, redis_url):
    async with start_path(count=1, redis_url=redis_url) as path, client_of(path) as client:
        await declare_prices(path, PRICE)
        budget = a_budget(100 * MILLI)
        await declare(path, budget, a_limit("concurrent", 1), a_limit("requests", 600))
        tickets = [await chat(client, headers={"prefer": "respond-async"}) for _ in range(3)]
        assert {ticket.status_code for ticket in tickets} == {202}
        for ticket in tickets:
            async with asyncio.timeout(20):
                while (await client.get(ticket.json()["status_url"])).json()["status"] != "completed":
                    await asyncio.sleep(0.05)
        events = (await path.events()).values()
        standing = await standing_of(path, budget)
    assert len(events) == 3
    assert (standing.held, standing.unshipped + standing.spent) == (0, sum(event["cost_nano"] for event in events))


@pytest.mark.redis
async def test_jobs_over_a_limit_wait_for_it_and_do_not_fail(start_path, redis_url):
    async with start_path(count=1, redis_url=redis_url) as path, client_of(path) as client:
        await declare(path, a_limit("requests", 60), a_limit("concurrent", 2))
        tickets = [(await chat(client, headers={"prefer": "respond-async"})).json() for _ in range(7)]
        async with asyncio.timeout(30):
            for ticket in tickets:
                while (status := (await client.get(ticket["status_url"])).json()["status"]) != "completed":
                    assert status in ("queued", "running")
                    await asyncio.sleep(0.05)
        assert len(await path.events()) == 7


@pytest.mark.redis
async def test_a_job_over_its_budget_fails_and_says_why(start_path, redis_url):
    async with start_path(count=1, redis_url=redis_url) as path, client_of(path) as client:
        await declare_prices(path, PRICE)
        await declare(path, a_budget(1))
        ticket = (await chat(client, headers={"prefer": "respond-async"})).json()
        async with asyncio.timeout(20):
            while (await client.get(ticket["status_url"])).json()["status"] != "failed":
                await asyncio.sleep(0.05)
        result = await client.get(ticket["result_url"])
        assert (result.status_code, result.json()["error"]["code"]) == (429, "insufficient_quota")
