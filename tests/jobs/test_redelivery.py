"""A gateway may die between any two steps of a job's end: the next one finds what is kept, closes it and tells."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.core.jobs import JobResult, JobState
from gateway.core.outcome import Outcome
from gateway.serve.job_run import bare_event
from tests.jobs.conftest import BODY, PATH
from tests.waiting import until

pytestmark = pytest.mark.redis


async def submitted(path, client):
    """Submit a job; gives its ticket, and the result of a run that somebody else made."""
    ticket = await client.ticket(BODY | {"max_tokens": 3})
    archive = path.gateway._lane.runner._archive
    job, _ = await archive.request(ticket["id"])
    plane = path.gateway._lane.runner._plane
    event = replace(bare_event(job, plane, Outcome.COMPLETED), prompt_tokens=5, completion_tokens=77, flag="exact")
    headers = {"content-type": "application/json"}
    made = JobResult(state=JobState.COMPLETED, status=200, headers=headers, event=event, body=b'{"made": "before"}')
    return ticket, archive, made


@asynccontextmanager
async def kept_busy(start_lane):
    """A lane that runs one job at a time, and is at a long one; it is cancelled at the end of the block."""
    async with start_lane(count=1, jobs={"concurrency": 1}) as (path, client):
        busy = await client.ticket(BODY | {"max_tokens": 4000})
        await client.until(busy, "running")

        async def let_go(ticket):
            """Have the job of *ticket* taken; it ends as made, unseen by the engine, and is billed once as kept."""
            await client.http.delete(busy["status_url"])
            await client.until(ticket, "completed")
            assert (await client.result(ticket)).json() == {"made": "before"}
            event = (await path.events())[ticket["id"]]
            assert (event["prompt_tokens"], event["completion_tokens"]) == (5, 77)
            await until(lambda: not path.gateway._lane.runner._runs)
            assert len(await path.events()) == 2
            assert [entry["request"] for entry in await path.engines[0].journal()] == [f"{busy['id']}-1"]

        yield path, client, let_go


async def test_a_result_that_was_kept_but_not_billed_is_billed_as_kept(start_lane):
    async with kept_busy(start_lane) as (path, client, let_go):
        ticket, archive, made = await submitted(path, client)
        await archive.put_result(ticket["id"], made)
        await let_go(ticket)


async def test_a_result_that_was_billed_but_not_told_is_billed_once(start_lane):
    async with kept_busy(start_lane) as (path, client, let_go):
        ticket, archive, made = await submitted(path, client)
        await archive.put_result(ticket["id"], made)
        await path.gateway._spool.close(made.event)
        await let_go(ticket)


async def test_a_run_that_ends_after_another_ones_result_was_kept_changes_nothing(start_lane):
    """The lease ran out under a slow gateway: both ran the job, the first result counts for both."""
    async with start_lane(count=1) as (path, client):
        ticket, archive, made = await submitted(path, client)
        await archive.put_result(ticket["id"], made)
        await client.until(ticket, "completed")
        result = await client.result(ticket)
        [event] = (await path.events()).values()
    if result.json() == {"made": "before"}:
        assert event["completion_tokens"] == 77
    else:
        assert event["completion_tokens"] == result.json()["usage"]["completion_tokens"] == 3


async def test_a_job_that_keeps_killing_its_gateways_is_given_up(start_lane):
    async with start_lane(count=1, jobs={"attempts_max": 2}, queue={"hold_s_max": {"standard": 0.1}}) as (path, client):
        await path.gateway._roster.forget("w0")
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


async def test_a_gateway_that_drains_gives_back_at_once_what_no_engine_has_seen(start_lane):
    async with start_lane(count=1, jobs={"concurrency": 8}) as (path, client):
        await path.beat(0, max_seqs=1)
        busy = asyncio.create_task(client.http.post(PATH, json=BODY | {"max_tokens": 4000}))
        await until(lambda: "tiny" in path.gateway._admission.queues and "[1 in flight, 0 waiting" in path.queue)
        in_line = await client.ticket()
        await until(lambda: " 1 waiting" in path.queue)
        path.gateway.announce_drain()
        await until(lambda: "0 running" in repr(path.gateway._lane.runner))
        assert (await client.status(in_line))["status"] == "queued"
        assert "[1 in flight, 0 waiting" in path.queue
        busy.cancel()
