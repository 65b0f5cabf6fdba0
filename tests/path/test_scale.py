"""A pool's demand is counted as it is, its decisions are told at once, and people can read why."""

import asyncio

import httpx
import pytest

from gateway.core.roster import WorkerState
from tests.path.conftest import Path

ADMIN = "a-token"
SCALED = {"workers_min": 0, "workers_max": 4, "idle_s": 0.5, "down_s": 1.0}


def settings(**changes):
    return {"admin_token": ADMIN, "scale": SCALED | changes}


async def scale(path: Path, **query) -> dict:
    async with httpx.AsyncClient(base_url=path.url, timeout=40) as http:
        answer = await http.get("/admin/v1/scale", params=query, headers={"authorization": f"Bearer {ADMIN}"})
    return answer.raise_for_status().json()


async def pool(path: Path, **query) -> dict:
    [found] = (await scale(path, **query))["pools"]
    return found


async def until(path: Path, is_so) -> dict:
    """Follow the decisions until one is so."""
    async with asyncio.timeout(60):
        while True:
            found = await pool(path)
            if is_so(found):
                return found
            await asyncio.sleep(0.1)


async def chat(path: Path, max_tokens=32, **body):
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": max_tokens, **body}
    async with httpx.AsyncClient(timeout=60) as http:
        return await http.post(
            f"{path.url}/v1/chat/completions", json=asked, headers={"authorization": f"Bearer {path.key}"}
        )


async def test_the_route_is_for_operators_alone(start_path):
    async with start_path(0, **settings()) as path, httpx.AsyncClient(base_url=path.url) as http:
        assert (await http.get("/admin/v1/scale")).status_code == 401


async def test_a_pool_that_nobody_asks_for_has_no_worker_and_its_first_request_wants_one_at_once(start_path):
    async with start_path(0, **settings()) as path:
        before = await scale(path, scaler="test")
        assert before["pools"][0]["desired"] == 0
        following = asyncio.create_task(scale(path, after=before["version"], wait_s=30))
        await asyncio.sleep(0)
        asking = asyncio.create_task(chat(path))
        began_s = asyncio.get_running_loop().time()
        after = (await following)["pools"][0]
        assert asyncio.get_running_loop().time() - began_s < 5, "it is pushed; the long poll lasts 30 s"
        assert after["desired"] == 1
        assert after["reason"] == "a request is there and no worker: the first one starts"
        assert after["requests"] == {"waiting": 1, "in_flight": 0}
        assert after["backlog_tokens"] > 0
        asking.cancel()
        assert (await until(path, lambda found: not found["desired"]))["requests"]["waiting"] == 0


async def test_a_worker_that_was_asked_for_is_a_known_start_for_who_waits(start_path):
    """The second time, that is: the first start teaches how long it takes, from the request on."""
    async with start_path(1, **settings()) as path:
        await until(path, lambda _: path.gateway._starts._has_looked)  # what it finds under way it does not learn from
        await path.gateway._roster.forget("w0")
        for _ in range(2):
            asking = asyncio.create_task(chat(path))
            found = await until(path, lambda found: found["desired"] == 1)
            await path.beat(0, state=WorkerState.LOADING)
            await until(path, lambda found: "1 under way" in repr(path.gateway._starts))
            await path.beat(0)
            assert (await asking).status_code == 200
            assert (await until(path, lambda found: found["start_s"]))["start_s"] > 0
            await path.gateway._roster.forget("w0")
            await until(path, lambda found: not found["workers"]["ready"])
            await pool(path, scaler="test")
        assert found["next_ready_in_s"] is not None


async def test_demand_is_what_waits_what_arrives_and_what_is_done(start_path):
    async with start_path(1, **settings()) as path:
        await path.engines[0].fault(is_stalled=True)  # nobody's answer ends until all have come
        asking = [asyncio.create_task(chat(path, 200, stream=True, ignore_eos=True)) for _ in range(20)]
        found = await until(path, lambda found: found["requests"] == {"waiting": 12, "in_flight": 8})
        await path.engines[0].fault(is_stalled=False)
        assert found["arrival_rate"] > 0
        assert found["backlog_s"] > 0
        assert found["workers"] == {"ready": 1, "starting": 0, "draining": 0}
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
        after = await until(path, lambda found: not sum(found["requests"].values()))
        assert after["backlog_tokens"] == 0
        share = path.gateway._meter.shares()["tiny"]
        assert share.served_rate > 0
        async with httpx.AsyncClient(base_url=path.url) as http:
            text = (await http.get("/metrics")).text
        assert 'sluice_pool_desired_workers{pool="tiny"} ' in text
        assert 'sluice_pool_backlog_seconds{pool="tiny"} 0' in text


@pytest.mark.redis
async def test_two_gateways_decide_from_the_sum_of_what_they_have(start_path, redis_url, tmp_path):
    shared = settings() | {"redis_url": redis_url}
    async with start_path(0, **shared) as one:
        other = type(one.gateway)(one.gateway._settings.model_copy(update={"gateway_id": "other"}))
        await other.start()
        asking = []
        try:
            asking += [asyncio.create_task(chat(one)) for _ in range(3)]
            async with asyncio.timeout(20):
                while other._scale.to_json()["pools"][0]["requests"]["waiting"] != 3:
                    await asyncio.sleep(0.05)
            seen = other._scale.to_json()["pools"][0]
            assert seen["desired"] == 1
            assert seen["backlog_tokens"] == (await pool(one))["backlog_tokens"]
        finally:
            for task in asking:
                task.cancel()
            await other.aclose()


@pytest.mark.redis
async def test_what_was_learnt_of_workers_outlives_a_gateway(start_path, redis_url):
    async with start_path(0, **settings(), redis_url=redis_url) as path:
        path.gateway._starts.expect("tiny", 42.0, 3.0, 16)
        path.gateway._scale._pools["tiny"].rate.per_s = 1234.0
        async with asyncio.timeout(40):
            while "tiny" not in path.gateway._scale._board.learnt:
                await asyncio.sleep(0.1)
        other = type(path.gateway)(path.gateway._settings.model_copy(update={"gateway_id": "other"}))
        await other.start()
        found = other._scale.to_json()["pools"][0]
        await other.aclose()
        assert (found["rate_per_worker"], found["is_rate_known"], found["start_s"]) == (1234.0, True, 45.0)
