"""A pool that has no worker now: its requests wait, for as long as their class may, and lose nothing."""

import asyncio
import json

from gateway.core.roster import WorkerState
from tests.path.waiting_clients import BODY, COMMENT, QUICK, STREAM, until_waiting, waits
from tests.waiting import until

SHORT = {"hold_s_max": {"standard": 0.3}}


async def line_exists(path):
    await until(lambda: "tiny" in path.gateway._admission.queues)


async def test_a_request_is_served_by_the_first_worker_that_becomes_ready(start_path):
    async with start_path(count=1) as path:
        await path.beat(0, state=WorkerState.LOADING)
        client = waits(path, BODY)
        await line_exists(path)
        await until_waiting(path, 1)
        await path.beat(0)
        await client.done
    assert client.status == 200


async def test_who_was_held_too_long_gets_503_with_a_time_to_retry(start_path):
    async with start_path(count=0, queue=SHORT) as path:
        client = waits(path, BODY)
        await client.done
        [event] = (await path.events()).values()
    assert client.status == 503
    error = json.loads(client.body)["error"]
    assert (error["code"], error["limit"]["name"]) == ("no_worker", "hold")
    assert 1 <= int(client.headers["retry-after"]) <= 60
    assert event["outcome"] == "no_worker"


async def test_a_stream_that_was_held_too_long_ends_with_an_error_event(start_path):
    async with start_path(count=0, queue=SHORT | QUICK | {"hold_s_max": {"standard": 0.6}}) as path:
        client = waits(path)
        await client.done
    assert client.status == 200
    assert b'data: {"error": {' in client.body
    assert b'"no_worker"' in client.body


async def test_capacity_that_goes_and_comes_back_loses_nobody(start_path):
    """The limit counts the time without any worker, not the wait."""
    async with start_path(count=1, queue={"hold_s_max": {"standard": 1.0}}) as path:
        await path.beat(0, max_seqs=1)
        clients = [waits(path, BODY | {"max_tokens": 300}) for _ in range(4)]
        await line_exists(path)
        await until_waiting(path, 3)
        await path.beat(0, state=WorkerState.LOADING)
        await until(lambda: not path.gateway._admission._lines["tiny"].has_capacity)
        await path.beat(0, max_seqs=1)
        await asyncio.gather(*(client.done for client in clients))
    assert [client.status for client in clients] == [200] * 4


async def test_a_request_that_meets_only_workers_without_its_model_goes_back_in_line(start_path):
    async with start_path(count=1) as path:
        await path.beat(0, models=("another",))
        client = waits(path, BODY)
        await line_exists(path)
        await until(lambda: path.gateway._admission._waiting)
        await path.beat(0)
        await client.done
        [event] = (await path.events()).values()
    assert client.status == 200
    assert event["attempts"] == 1


async def test_without_a_worker_that_has_the_model_the_limit_holds_too(start_path):
    async with start_path(count=1, queue=SHORT) as path:
        await path.beat(0, models=("another",))
        client = waits(path, BODY)
        await client.done
        await until(lambda: "[0 in flight, 0 waiting" in path.queue)
    assert (client.status, json.loads(client.body)["error"]["code"]) == (503, "no_worker")


async def test_a_known_start_time_is_the_expected_wait(start_path):
    async with start_path(count=2, queue=QUICK) as path:
        for worker in (0, 1):
            await path.beat(worker, state=WorkerState.FAILED)
        await path.gateway._roster.forget("w1")
        starts = path.gateway._admission._starts
        await until(lambda: starts._has_looked)
        await path.beat(1, state=WorkerState.LOADING)
        await until(lambda: "1 under way" in repr(starts))
        await asyncio.sleep(1.5)  # what this start takes
        await path.beat(1)
        await until(lambda: "0 under way, 1 pools known" in repr(starts))
        await path.beat(1, state=WorkerState.LOADING)
        await until(lambda: "1 under way" in repr(starts))
        client = waits(path)
        await until(lambda: COMMENT.search(client.body))
        await path.beat(1)
        await client.done
    eta_s = float(COMMENT.search(client.body)[2])
    assert 0 <= eta_s < 4


async def test_who_would_be_held_in_vain_is_told_at_once_when_to_come_again(start_path):
    async with start_path(count=1, queue={"hold_s_max": {"standard": 0.5}}) as path:
        starts = path.gateway._admission._starts
        await path.gateway._roster.forget("w0")
        await until(lambda: starts._has_looked)
        await path.beat(0, state=WorkerState.STARTING)
        await until(lambda: "1 under way" in repr(starts))
        await asyncio.sleep(1.5)  # what this start takes
        await path.beat(0)
        await until(lambda: starts.start_s("tiny") is not None)
        await path.beat(0, state=WorkerState.LOADING)
        await until(lambda: "1 under way" in repr(starts))
        client = waits(path, STREAM)
        await client.done
    error = json.loads(client.body)["error"]
    assert (client.status, error["code"]) == (503, "no_worker")
    assert error["limit"]["eta_s"] == float(client.headers["x-sluice-eta-s"]) > 0.5
