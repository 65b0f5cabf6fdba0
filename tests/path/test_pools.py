"""Pools of sluice.yaml as requests meet them: names that pools share, their own limits, changes under load."""

import asyncio
import json
import re
from collections import Counter
from math import sqrt

import httpx
import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.control.pool_file import read_pool_file
from gateway.control.pools import carry_out, plan_apply
from gateway.core.roster import WorkerState
from gateway.serve.wire import ConnectionPool
from gateway.stores.sql_pools import SqlPools
from tests.path.conftest import NOW_MS
from tests.path.waiting_clients import BODY as WAITING
from tests.path.waiting_clients import busy, until_waiting, waits
from tests.waiting import until

POOLS = """
pools:
  main: {model: m, serves: [main-8b]}
  next: {model: m, serves: [next-8b, plus]}
models:
  plus: {main: %d, next: %d}
"""
BODY = {"model": "plus", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


async def apply(path, yaml):
    """Apply a file as `sluice apply` does; returns once the gateway has heard of it."""

    def write():
        file = read_pool_file(yaml.encode(), "sluice.yaml")
        file.check()
        store = SqlPools(path.gateway._database)
        carry_out(store, lambda: plan_apply(store.declared(), file, now_ms=NOW_MS), who="test", now_ms=NOW_MS)
        return store.declared().version

    version = await asyncio.to_thread(write)
    await until(lambda: path.gateway._directory.snapshot.version >= version)


async def two_pools(path):
    """Have engine 0 work for pool main, and engine 1 for pool next; only that one knows the shared name too."""
    await path.beat(0, pool="main", models=("main-8b",))
    await path.beat(1, pool="next", models=("next-8b", "plus"))
    path.gateway._admission.resize()


@pytest.fixture
async def shared(start_path, start_sim):
    async with start_path(1, engine={"models": ("main-8b",)}) as path:
        path.engines.append(await start_sim(models=("next-8b", "plus")))
        await two_pools(path)
        await apply(path, POOLS % (70, 30))
        async with httpx.AsyncClient(base_url=path.url, headers={"Authorization": f"Bearer {path.key}"}) as client:
            yield path, client


async def ask(client, headers=None, **body):
    return await client.post("/v1/chat/completions", json={**BODY, **body}, headers=headers or {}, timeout=60)


async def test_a_shared_name_is_answered_by_the_engines_of_both_pools(shared):
    path, client = shared
    answers = [await ask(client, user=f"user-{number}") for number in range(60)]
    assert {answer.status_code for answer in answers} == {200}
    chosen = Counter(answer.headers["x-sluice-pool"] for answer in answers)
    assert abs(chosen["main"] - 42) <= 4.5 * sqrt(60 * 0.7 * 0.3)
    events = (await path.events()).values()
    assert Counter(event["pool"] for event in events) == chosen
    assert {event["model"] for event in events} == {"plus"}, "what is billed is the name that was asked for"


async def test_a_session_a_user_stays_on_its_side(shared):
    _, client = shared
    for key in ({"headers": {"X-Session-ID": "s1"}}, {"user": "u7"}, {"headers": {"X-Session-ID": "s9"}, "user": "u1"}):
        answers = [await ask(client, **key) for _ in range(6)]
        assert len({answer.headers["x-sluice-pool"] for answer in answers}) == 1


async def test_a_session_goes_before_the_user(shared):
    _, client = shared
    answers = [await ask(client, {"X-Session-ID": "s1"}, user=f"user-{number}") for number in range(12)]
    assert len({answer.headers["x-sluice-pool"] for answer in answers}) == 1


async def test_a_shared_name_is_listed_once(shared):
    _, client = shared
    assert [each["id"] for each in (await client.get("/v1/models")).json()["data"]] == [
        "main-8b",
        "next-8b",
        "plus",
        "tiny",
    ]


async def test_weights_that_change_move_requests_at_once_and_lose_none(shared):
    """Requests run all the while; what is applied only decides where the next ones go."""
    path, client = shared
    statuses, pools, stop = [], [], asyncio.Event()

    async def load(number):
        while not stop.is_set():
            answer = await ask(client, stream=number % 2 == 0)
            statuses.append(answer.status_code)
            pools.append(answer.headers["x-sluice-pool"])

    loads = [asyncio.create_task(load(number)) for number in range(4)]
    for weights, only in (((0, 1), "next"), ((1, 0), "main"), ((1, 1), None), ((0, 5), "next")):
        await apply(path, POOLS % weights)
        await until(lambda: len(pools) > 8)  # what was under way when it was applied has ended
        pools.clear()
        await until(lambda: len(pools) > 20)
        assert only is None or set(pools[8:]) == {only}
    stop.set()
    await asyncio.gather(*loads)
    assert set(statuses) == {200}


async def test_a_name_that_is_dropped_gets_404_and_comes_back(shared):
    path, client = shared
    await apply(path, "pools: {main: {model: m, serves: [main-8b]}}")
    assert (await ask(client)).status_code == 404
    assert (await ask(client, model="main-8b")).status_code == 200
    await apply(path, POOLS % (1, 1))
    assert (await ask(client)).status_code == 200


async def test_a_pools_own_limits_go_before_the_gateways(start_path):
    """The same request is held for as long as its pool says, and that may change while the gateway runs."""
    async with start_path(1, queue={"hold_s_max": {"standard": 300}}) as path:
        await path.beat(0, pool="patient", state=WorkerState.STARTING)
        yaml = "pools:\n  hasty: {model: m, hold_s_max: {standard: %s}}\n  patient: {model: m}\n"
        await apply(path, yaml % 0.2)
        async with httpx.AsyncClient(base_url=path.url, headers={"Authorization": f"Bearer {path.key}"}) as client:
            answer = await ask(client, model="hasty")
            assert (answer.status_code, answer.json()["error"]["limit"]["allowed"]) == (503, 0.2)
            waiting = asyncio.create_task(ask(client, model="patient"))
            await until(lambda: path.gateway._admission.queues.get("patient"))
            await apply(path, yaml % 0.4)
            answer = await ask(client, model="hasty")
            assert answer.json()["error"]["limit"]["allowed"] == 0.4
            assert not waiting.done()
            waiting.cancel()


async def test_a_pools_own_wait_is_in_force_without_a_restart(start_path, connections):
    """The gateway would let it wait for 15 minutes; its pool says half a second."""
    async with start_path(1) as path, busy(path, connections, tokens=4000):
        await apply(path, "pools:\n  tiny: {model: m, wait_s_max: {standard: 0.5}}\n")
        late = waits(path, WAITING)
        await late.done
        error = json.loads(late.body)["error"]
        assert (late.status, error["code"]) == (429, "wait_too_long")
        assert 0.5 <= error["limit"]["allowed"] < 60, "from its coming to its refusal"
        await apply(path, "pools:\n  tiny: {model: m}\n")
        patient = waits(path, WAITING)
        await until_waiting(path, 1)
        patient.done.cancel()


async def test_check_compares_with_the_workers_that_run(start_path, tmp_path):
    """A name that was added to a pool is known to workers that start from then on: until then the check says so."""
    async with start_path(1, admin_token="t") as path:
        file = tmp_path / "sluice.yaml"
        file.write_text("pools:\n  tiny: {model: m, serves: [tiny, new], workers: {max: 3}}\n  cold: {model: m}\n")
        environ = {"SLUICE_PORT": path.url.rpartition(":")[2], "SLUICE_ADMIN_TOKEN": "t"}
        arguments = ["check", str(file), "--home", str(tmp_path), "--format"]
        told = await asyncio.to_thread(CliRunner(env=environ).invoke, app, [*arguments, "json"])
        assert json.loads(told.stdout)["workers"] == {"tiny": {"states": {"ready": 1}, "lacks": ["new"]}}
        shown = await asyncio.to_thread(CliRunner(env=environ).invoke, app, [*arguments, "table"])
        assert re.search(r"cold +1 to 1 +none +–", shown.output)
        assert re.search(r"tiny +1 to 3 +1 ready +new", shown.output)
