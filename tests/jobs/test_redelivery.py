"""A gateway may die between any two steps of a job's end: the next one finds what is kept, closes it and tells."""

import asyncio
from dataclasses import replace

import pytest

from gateway.core.jobs import JobResult, JobState
from gateway.core.outcome import Outcome
from gateway.serve.job_run import bare_event
from tests.jobs.conftest import BODY
from tests.waiting import until

pytestmark = pytest.mark.redis


async def submitted(path, client):
    """Submit a job that nobody runs yet; gives its ticket, itself and the result of a run that somebody made."""
    ticket = await client.ticket(BODY | {"max_tokens": 3})
    archive = path.gateway._lane.runner._archive
    job, _ = await archive.request(ticket["id"])
    plane = path.gateway._lane.runner._plane
    event = replace(bare_event(job, plane, Outcome.COMPLETED), prompt_tokens=5, completion_tokens=77, flag="exact")
    headers = {"content-type": "application/json"}
    made = JobResult(state=JobState.COMPLETED, status=200, headers=headers, event=event, body=b'{"made": "before"}')
    return ticket, job, archive, made


async def assert_ended_as_made(path, client, ticket):
    """The engine saw nothing, and the one bill is that of the result that was kept."""
    await client.until(ticket, "completed")
    assert (await client.result(ticket)).json() == {"made": "before"}
    [event] = (await path.events()).values()
    assert (event["id"], event["prompt_tokens"], event["completion_tokens"]) == (ticket["id"], 5, 77)
    assert not await path.engines[0].journal()
    await until(lambda: not path.gateway._lane.runner._runs)


@pytest.fixture
def start_held(start_lane):
    """A lane whose pool has an engine but no worker yet; `path.beat(0)` lets jobs run."""

    def start(**options):
        return start_lane(count=1, **options)

    return start


async def held_back(path):
    await path.gateway._roster.forget("w0")


async def test_a_result_that_was_kept_but_not_billed_is_billed_as_kept(start_held):
    async with start_held() as (path, client):
        await held_back(path)
        ticket, _, archive, made = await submitted(path, client)
        await archive.put_result(ticket["id"], made)
        await path.beat(0)
        await assert_ended_as_made(path, client, ticket)


async def test_a_result_that_was_billed_but_not_told_is_billed_once(start_held):
    async with start_held() as (path, client):
        await held_back(path)
        ticket, _, archive, made = await submitted(path, client)
        await archive.put_result(ticket["id"], made)
        await path.gateway._spool.close(made.event)
        await path.beat(0)
        await assert_ended_as_made(path, client, ticket)


async def test_a_run_that_ends_after_another_ones_result_was_kept_changes_nothing(start_lane):
    """The lease ran out under a slow gateway: both ran the job, the first result counts for both."""
    async with start_lane(count=1) as (path, client):
        ticket, _, archive, made = await submitted(path, client)
        await archive.put_result(ticket["id"], made)
        await client.until(ticket, "completed")
        result = await client.result(ticket)
        [event] = (await path.events()).values()
    if result.json() == {"made": "before"}:
        assert event["completion_tokens"] == 77
    else:
        assert event["completion_tokens"] == result.json()["usage"]["completion_tokens"] == 3


async def test_a_job_that_keeps_killing_its_gateways_is_given_up(start_held):
    async with start_held(jobs={"attempts_max": 2}) as (path, client):
        await held_back(path)
        ticket = await client.ticket()
        redis, key = path.gateway._redis, f"sluice:{{tiny}}:jobs:job:{ticket['id']}"
        async with asyncio.timeout(5):
            while await redis.hget(key, "state") != "released":
                await asyncio.sleep(0.01)
        await redis.hset(key, "attempts", 2)
        await path.beat(0)
        await client.until(ticket, "failed")
        result = await client.result(ticket)
        [event] = (await path.events()).values()
    assert result.status_code == 500
    assert "died 2 times" in result.json()["error"]["message"]
    assert (event["outcome"], event["completion_tokens"]) == ("bug", 0)


async def test_a_gateway_that_stops_gives_its_jobs_back_at_once(start_lane):
    async with start_lane(count=1, jobs={"lease_s": 60}) as (path, client):
        ticket = await client.ticket(BODY | {"max_tokens": 4000})
        await client.until(ticket, "running")
        await path.gateway._lane.runner.aclose()
        assert (await client.status(ticket))["status"] == "queued"
        await until(lambda: not path.engines[0].engine.batch.running)
        other = path.gateway._make_lane(path.gateway._lane.runner._plane)
        await other.start()
        await client.until(ticket, "running")
        await client.http.delete(ticket["status_url"])
        await other.aclose()
        assert len(await path.events()) == 1


async def test_a_gateway_that_drains_lets_its_jobs_end_and_takes_no_more(start_lane):
    async with start_lane(count=1, jobs={"concurrency": 1}) as (path, client):
        running, waiting = await client.ticket(BODY | {"max_tokens": 200}), await client.ticket()
        await client.until(running, "running")
        path.gateway.begin_drain()
        await client.until(running, "completed")
        await path.gateway._lane.runner.aclose(5)
        assert (await client.status(waiting))["status"] == "queued"
