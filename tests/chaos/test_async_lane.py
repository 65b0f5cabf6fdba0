"""Jobs outlive whatever is killed: each ends once, and its bill is the usage in the answer that is kept."""

import asyncio
import random
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.chaos.conftest import start_workers
from tests.servers.installation import Installation
from tests.servers.redis_server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 300, "ignore_eos": True}
FINAL = {"completed", "failed", "cancelled"}


class Lane:
    """Gateways of different hosts that share Redis, the database and the folder of objects."""

    def __init__(self, home, redis_url: str, gateways: int) -> None:
        self.installation = Installation(
            home,
            redis_url=redis_url,
            SLUICE_JOBS__OBJECTS_DIR=str(home / "shared"),
            SLUICE_JOBS__LEASE_S="1",
            SLUICE_JOBS__ATTEMPTS_MAX="20",
        )
        self.gateways = [self.installation.add_gateway(own_home=True) for _ in range(gateways)]
        key = self.installation.declare()
        self.http = httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=20, trust_env=False)
        start_workers(self.installation, 1)

    async def submit(self, gateway, body=BODY) -> str:
        url = f"{gateway.url}/v1/chat/completions"
        answer = await self.http.post(url, json=body, headers={"prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    async def status(self, gateway, job_id: str) -> str:
        answer = await self.http.get(f"{gateway.url}/v1/queue/{job_id}")
        return answer.json()["status"] if answer.status_code == 200 else f"{answer.status_code}: {answer.text}"

    async def until(self, gateway, job_ids, is_so, within_s=60) -> None:
        """Wait until the statuses of the jobs, as *gateway* tells them, are so."""
        statuses: list[str] = []
        try:
            async with asyncio.timeout(within_s):
                while not statuses or not is_so(statuses):
                    statuses = [await self.status(gateway, job_id) for job_id in job_ids]
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"not within {within_s} s: {statuses}\n{gateway.tail()}")

    async def assert_each_ended_once_and_is_billed_as_answered(self, gateway, job_ids) -> None:
        await self.until(gateway, job_ids, lambda statuses: set(statuses) <= FINAL)
        await asyncio.to_thread(self.installation.wait_shipped)
        events = self.installation.events()
        assert set(events) == set(job_ids)
        for job_id in job_ids:
            answer = await self.http.get(f"{gateway.url}/v1/queue/{job_id}/result")
            assert answer.status_code == 200, answer.text
            usage, event = answer.json()["usage"], events[job_id]
            assert (event["outcome"], event["flag"]) == ("completed", "exact")
            assert (event["prompt_tokens"], event["completion_tokens"]) == (usage["prompt_tokens"], 300)
            assert usage["completion_tokens"] == 300


@asynccontextmanager
async def lane_over(tmp_path, redis_url, gateways=2):
    lane = await asyncio.to_thread(Lane, tmp_path / "home", redis_url, gateways)
    try:
        async with lane.http:
            yield lane
    finally:
        lane.installation.close()


@pytest.fixture
def durable_redis(tmp_path):
    """A Redis of the test's own that writes an append-only file, as production and `sluice up` have it."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, "--appendonly", "yes")
    server.start()
    yield server
    server.kill()


async def test_another_gateway_ends_the_jobs_of_one_that_is_killed_in_the_middle_of_them(tmp_path, redis_url):
    async with lane_over(tmp_path, redis_url) as lane:
        dying, living = lane.gateways
        job_ids = [await lane.submit(dying) for _ in range(8)]
        await lane.until(living, job_ids, lambda statuses: "running" in statuses)
        assert await asyncio.to_thread(dying.metric, "sluice_in_flight_requests") > 0
        dying.kill()
        await lane.until(living, job_ids, lambda statuses: set(statuses) <= FINAL)
        await asyncio.to_thread(dying.start)  # whatever its spool says now comes into the Journal
        await lane.assert_each_ended_once_and_is_billed_as_answered(living, job_ids)


async def test_jobs_outlive_every_gateway_and_redis_killed_at_once(tmp_path, durable_redis):
    async with lane_over(tmp_path, durable_redis.url) as lane:
        job_ids = [await lane.submit(gateway) for gateway in lane.gateways for _ in range(12)]
        await lane.until(lane.gateways[0], job_ids, lambda statuses: "running" in statuses)
        durable_redis.kill()
        for gateway in lane.gateways:
            gateway.kill()
        durable_redis.start()
        for gateway in lane.gateways:
            await asyncio.to_thread(gateway.start)
        await lane.assert_each_ended_once_and_is_billed_as_answered(lane.gateways[0], job_ids)


async def test_jobs_go_on_over_a_redis_that_is_killed_and_comes_back(tmp_path, durable_redis):
    async with lane_over(tmp_path, durable_redis.url) as lane:
        job_ids = [await lane.submit(gateway) for gateway in lane.gateways for _ in range(12)]
        await lane.until(lane.gateways[0], job_ids, lambda statuses: "running" in statuses)
        durable_redis.kill()
        await asyncio.sleep(2)  # longer than the lease
        answer = await lane.http.get(f"{lane.gateways[0].url}/v1/queue/{job_ids[0]}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "async_unavailable")
        durable_redis.start()
        await lane.assert_each_ended_once_and_is_billed_as_answered(lane.gateways[0], job_ids)


async def test_kills_at_any_moment_lose_and_double_no_job(tmp_path, redis_url):
    dice = random.Random(7)
    async with lane_over(tmp_path, redis_url) as lane:
        dying, living = lane.gateways
        job_ids = []
        for _ in range(6):
            job_ids += [await lane.submit(dying) for _ in range(6)]
            await asyncio.sleep(dice.uniform(0.2, 2.0))
            dying.kill()
            await asyncio.to_thread(dying.start)
        await lane.assert_each_ended_once_and_is_billed_as_answered(living, job_ids)
