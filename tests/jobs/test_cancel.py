"""A job may be cancelled until its result is kept; then it is not billed, and a gateway that runs it stops."""

import asyncio

import pytest

from tests.jobs.conftest import BODY
from tests.waiting import until

pytestmark = pytest.mark.redis

LONG = BODY | {"max_tokens": 4000}


def is_idle(path) -> bool:
    batch = path.engines[0].engine.batch
    return not batch.running and not batch.waiting


async def cancel(client, ticket):
    answer = await client.http.delete(ticket["status_url"])
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_queued_job_that_is_cancelled_never_runs(start_lane):
    async with start_lane(count=1, jobs={"concurrency": 1}) as (path, client):
        running = await client.ticket(LONG)
        await client.until(running, "running")
        waiting, next_one = await client.ticket(), await client.ticket()
        assert (await cancel(client, waiting))["status"] == "cancelled"
        assert (await client.status(next_one))["position"] == 1
        await cancel(client, running)
        await client.until(next_one, "completed")
        events = await path.events()
        assert len(await path.engines[0].journal()) == 2, "the engine saw a job that was cancelled before its turn"
    assert (events[waiting["id"]]["outcome"], events[waiting["id"]]["attempts"]) == ("client_gone", 0)


async def test_a_running_job_that_is_cancelled_stops_its_engine_and_costs_nothing(start_lane):
    async with start_lane(count=1) as (path, client):
        ticket = await client.ticket(LONG)
        await client.until(ticket, "running")
        await until(lambda: not is_idle(path))
        assert (await cancel(client, ticket))["status"] == "cancelled"
        await until(lambda: is_idle(path), within_s=1)
        assert (await client.status(ticket))["status"] == "cancelled"
        result = await client.result(ticket)
        [event] = (await path.events()).values()
    assert (result.status_code, result.json()["error"]["code"]) == (410, "cancelled")
    assert (event["outcome"], event["status"], event["prompt_tokens"], event["completion_tokens"]) == (
        "client_gone",
        499,
        0,
        0,
    )


async def test_a_job_that_has_ended_cannot_be_cancelled_and_keeps_its_result(start_lane):
    async with start_lane() as (path, client):
        ticket = await client.ticket()
        await client.until(ticket, "completed")
        answer = await client.http.delete(ticket["status_url"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_ended")
        assert (await client.result(ticket)).status_code == 200
        [event] = (await path.events()).values()
    assert event["completion_tokens"] == 20


async def test_cancelling_twice_is_cancelling_once(start_lane):
    async with start_lane(count=1) as (path, client):
        ticket = await client.ticket(LONG)
        answers = await asyncio.gather(*(client.http.delete(ticket["status_url"]) for _ in range(5)))
        assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "cancelled")}
        assert len(await path.events()) == 1


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08])
async def test_a_cancellation_at_any_moment_is_either_in_time_or_too_late(start_lane, delay_s):
    """Whichever it was, the status, the result and the bill say the same."""
    async with start_lane(count=1) as (path, client):
        ticket = await client.ticket(BODY | {"max_tokens": 10})
        await asyncio.sleep(delay_s)
        answer = await client.http.delete(ticket["status_url"])
        status = (await client.until(ticket, "completed", "cancelled"))["status"]
        result = await client.result(ticket)
        [event] = (await path.events()).values()
        await until(lambda: not path.gateway._lane.runner._runs)
        assert list(await path.events()) == [ticket["id"]]
    assert (answer.status_code, result.status_code, event["completion_tokens"]) == (
        (200, 410, 0) if status == "cancelled" else (409, 200, 10)
    )
