"""GET /v1/usage: a key's own usage, live, and finance's figures to the nano."""

import asyncio
import random
from zoneinfo import ZoneInfo

import httpx
import pytest

from gateway.composition import now_ms
from gateway.control.keys import create_key
from gateway.control.tenants import create_tenant
from gateway.core.prices import Tier, Unit
from gateway.finance.reports import UsageQuery, usage_report
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_directory import SqlDirectory
from tests.path.conftest import NOW_MS
from tests.servers.prices import declare, version
from tests.waiting import until

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True}
NEVER = {"spool": {"ship_interval_s": 3600}}


def client_of(path, key=None):
    headers = {"authorization": f"Bearer {key or path.key}"}
    return httpx.AsyncClient(base_url=path.url, headers=headers, timeout=30, trust_env=False)


async def usage(client, **asked):
    answer = await client.get("/v1/usage", params={name.rstrip("_"): value for name, value in asked.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ask(client, **fields):
    return await client.post("/v1/chat/completions", json=BODY | fields)


@pytest.fixture
async def priced(start_path):
    """A gateway over one engine, whose prices have a tier; and its client."""
    async with start_path(count=1) as path:
        tiers = (Tier(0, {Unit.INPUT: 333_000, Unit.OUTPUT: 777_000}), Tier(40, {Unit.INPUT: 111_000, Unit.OUTPUT: 0}))
        await declare(path, version(tiers=tiers, batch_thousandths=500))
        async with client_of(path) as client:
            yield path, client


async def test_usage_is_there_the_moment_the_answer_is(start_path):
    """Nothing is shipped yet: what the Journal does not have, the gateway's spool has."""
    async with start_path(count=1, **NEVER) as path, client_of(path) as client:
        await declare(path, version())
        costs = [int((await ask(client, max_tokens=tokens)).headers["x-sluice-cost-nano"]) for tokens in (3, 5, 8)]
        report = await usage(client)
        with path.gateway._database.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM meter_events").scalar() == 0
    assert report["unshipped_requests"] == report["totals"]["requests"] == 3
    assert report["totals"]["completion_tokens"] == 16
    [amount] = report["amounts"]
    assert abs(amount["amount_nano"] - sum(costs)) <= 3  # lines are rounded once, receipts each by itself


async def test_live_and_shipped_figures_are_finances_to_the_nano(priced):
    """What is live now says the same when it has been shipped, and finance says the same of this key."""
    path, client = priced
    dice = random.Random(5)
    for _ in range(30):
        words = {"messages": [{"role": "user", "content": "w " * dice.choice([3, 80])}]}
        classes = {"X-Sluice-Class": dice.choice(["standard", "batch"])}
        await client.post(
            "/v1/chat/completions", json=BODY | words | {"max_tokens": dice.randint(1, 9)}, headers=classes
        )
    live = await usage(client, group_by="model,class,price,day")
    await path.events()
    shipped = await usage(client, group_by="model,class,price,day")
    assert shipped["unshipped_requests"] == 0
    ignored = ("to", "unshipped_requests")
    assert {k: v for k, v in live.items() if k not in ignored} == {k: v for k, v in shipped.items() if k not in ignored}
    async with client_of(path, "an-admin-token") as admin:
        refused = await admin.get("/v1/usage")
    assert refused.status_code == 401
    journal = SqlJournal(path.gateway._database)
    query = UsageQuery(from_ms=0, to_ms=now_ms(), zone=ZoneInfo("UTC"), group_by=("key", "model", "class", "price"))
    finance = usage_report(journal, query).to_json()
    assert finance["amounts"] == shipped["amounts"]
    assert finance["totals"] == shipped["totals"]


async def test_usage_read_while_events_are_shipped_counts_each_exactly_once(start_path):
    """Reports race the shipper: whatever they meet, none counts a request twice, and none forgets one that ended."""
    async with start_path(count=1, spool={"ship_interval_s": 0.001}) as path, client_of(path) as client:
        await declare(path, version())
        ended = 0

        async def keep_asking():
            nonlocal ended
            for _ in range(60):
                await ask(client, max_tokens=1)
                ended += 1

        asking = asyncio.create_task(keep_asking())
        while not asking.done():
            before = ended
            totals = (await usage(client))["totals"]
            assert before <= totals["requests"] <= ended + 1
            assert totals["completion_tokens"] == totals["requests"]
        await asking
        assert (await usage(client))["totals"]["requests"] == 60


async def test_another_keys_rows_are_not_in_it(priced):
    path, client = priced
    directory = SqlDirectory(path.gateway._database)
    create_tenant(directory, "beta")
    others = [create_key(directory, tenant, now_ms=NOW_MS)[1] for tenant in ("acme", "beta")]
    keys = path.gateway._directory
    await until(lambda: len(keys.snapshot.keys) == 3)
    for number, key in enumerate(others):
        async with client_of(path, key) as other:
            await ask(other, max_tokens=number + 1)
            report = await usage(other)
            assert (report["totals"]["requests"], report["totals"]["completion_tokens"]) == (1, number + 1)
    report = await usage(client)
    assert (report["totals"]["requests"], report["rows"][0]["requests"]) == (0, 0)
    assert report["tenant"] == "acme"


async def test_the_interval_and_the_zone_are_the_callers(priced):
    _, client = priced
    await ask(client)
    past = await usage(client, from_="2020-01-01", to="2020-02-01", zone="Asia/Shanghai")
    assert (past["from"], past["zone"]) == ("2020-01-01T00:00:00+08:00", "Asia/Shanghai")
    assert past["totals"]["requests"] == 0
    assert (await usage(client, from_="2020-01-01"))["totals"]["requests"] == 1


async def test_what_was_refused_is_counted_and_costs_nothing(priced):
    path, client = priced
    await ask(client, model="nope")
    await path.gateway._spool.flush()
    report = await usage(client, group_by="model")
    assert (report["totals"]["requests"], report["totals"]["denied"], report["amounts"]) == (1, 1, [])
    assert report["rows"][0]["model"] == ""


async def receipt(client, event_id):
    return await client.get(f"/v1/usage/{event_id}")


@pytest.mark.parametrize("is_shipped", [False, True])
async def test_a_receipt_can_be_fetched_later_also_of_a_stream_that_was_cut(start_path, is_shipped):
    interval_s = 0.02 if is_shipped else 3600
    async with start_path(count=1, spool={"ship_interval_s": interval_s}) as path, client_of(path) as client:
        await declare(path, version())
        async with client.stream(
            "POST", "/v1/chat/completions", json=BODY | {"stream": True, "max_tokens": 900}
        ) as cut:
            await anext(cut.aiter_lines())
        await until(lambda: not path.views[0].in_flight)
        whole = await ask(client)
        if is_shipped:
            events = await path.events()
            assert events[cut.headers["x-request-id"]]["flag"] == "delivered"
        found = [(await receipt(client, answer.headers["x-request-id"])).json() for answer in (cut, whole)]
        assert [each["rule"] for each in found] == ["delivered", "exact"]
        assert found[1]["cost_nano"] == int(whole.headers["x-sluice-cost-nano"])
        assert found[0]["cost_nano"] > 0
        if is_shipped:
            assert {each["id"]: each["cost_nano"] for each in found} == {
                each: event["cost_nano"] for each, event in events.items()
            }


async def test_another_keys_receipt_is_404_like_one_that_there_is_not(priced):
    path, client = priced
    answer = await ask(client)
    _, secret = create_key(SqlDirectory(path.gateway._database), "acme", now_ms=NOW_MS)
    await until(lambda: len(path.gateway._directory.snapshot.keys) == 2)
    async with client_of(path, secret) as other:
        for event_id in (answer.headers["x-request-id"], "req_nope"):
            refused = await receipt(other, event_id)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
            assert event_id in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"zone": "Mars"}, "Mars"),
        ({"group_by": "colour"}, "colour"),
        ({"group_by": "tenant"}, "do not differ in 'tenant'"),
        ({"from": "soon"}, "from 'soon'"),
        ({"from": "2026-02-01", "to": "2026-01-01"}, "is not before"),
        ({"tenant": "beta"}, "takes no 'tenant'"),
    ],
)
async def test_a_wrong_question_is_a_400_that_names_it(priced, asked, words):
    _, client = priced
    answer = await client.get("/v1/usage", params=asked)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


async def test_without_a_key_nothing_is_told(priced):
    path, _ = priced
    async with client_of(path, "sk-sluice-wrong") as stranger:
        assert (await stranger.get("/v1/usage")).status_code == 401


async def test_without_the_database_it_is_503_and_requests_go_on(priced, tmp_path):
    path, client = priced
    path.gateway._database.close()
    file = tmp_path / "sluice.db"
    file.rename(tmp_path / "aside.db")
    file.mkdir()
    try:
        answer = await client.get("/v1/usage")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "usage_unavailable")
        assert answer.headers["retry-after"] == "5"
        assert (await ask(client)).status_code == 200
    finally:
        file.rmdir()
        (tmp_path / "aside.db").rename(file)
