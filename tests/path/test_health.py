"""Workers that fail, on the whole path: who is ejected and who never is, how they come back, whom a hung one holds."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import httpx
import pytest

from gateway.core.retry_budget import WINDOW_S
from gateway.core.roster import WorkerState
from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, ask
from tests.servers.scripted_engine import accept_only, hung_engine, say_head_only, trickle
from tests.waiting import let_run_s, until

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True}
STREAM = BODY | {"stream": True, "stream_options": COUNTED}
BAD = BODY | {"temperature": -1}
QUICK = {"ejection_s": 0.3, "ejection_s_max": 0.3, "slow_start_s": 0.0}
REFUSED = 10_000
LIMIT_S = 4.0


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


def figures(path, worker="w0"):
    return next(of for of in path.gateway._roster.figures() if of.worker == worker)


def health(path, worker="w0"):
    path.views  # noqa: B018  looking is what lets time have its way
    return figures(path, worker).health.value


async def scrape(path) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"{path.url}/metrics")).text


async def ask_often(path, connections, body, count, at_once=32):
    """Ask *count* times, *at_once* at a time; gives how each ended."""
    endings, left = [], iter(range(count))

    async def client():
        for _ in left:
            endings.append(await ask(connections, path.url, path.key, body))  # noqa: PERF401

    await asyncio.gather(*(client() for _ in range(at_once)))
    return endings


async def test_ten_thousand_requests_that_the_engines_refuse_eject_nobody(start_path, connections):
    async with start_path() as path:
        for body in (BAD, BAD | {"stream": True}):
            endings = await ask_often(path, connections, body, REFUSED // 2)
            assert {ending.status for ending in endings} == {400}
        for worker in ("w0", "w1"):
            assert (health(path, worker), sum(figures(path, worker).faults.values())) == ("trusted", 0)
        assert (await ask(connections, path.url, path.key, STREAM)).is_finished


async def test_clients_that_leave_early_eject_nobody(start_path, connections):
    async with start_path() as path:

        async def leave_early(number):
            body = (BODY, STREAM)[number % 2] | {"max_tokens": 500}
            asking = asyncio.create_task(ask(connections, path.url, path.key, body))
            await asyncio.sleep(0.03 * (number % 7))
            asking.cancel()

        for _ in range(5):
            await asyncio.gather(*(leave_early(number) for number in range(28)))
        await until(lambda: all(view.in_flight == 0 for view in path.views), within_s=60)
        for worker in ("w0", "w1"):
            assert (health(path, worker), sum(figures(path, worker).faults.values())) == ("trusted", 0)


async def test_an_error_event_that_blames_the_request_ejects_nobody(start_path, connections):
    event = b'data: {"error": {"message": "bad grammar", "type": "BadRequestError", "param": null, "code": 400}}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async def refuse(reader, writer):
        await say_after(reader, writer, head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event))

    async with hung_engine(refuse) as (url, _), start_path() as path:
        for number in range(2):
            await path.beat(number, url=url)
        for _ in range(6):
            assert (await ask(connections, path.url, path.key, STREAM)).status == 502
        assert [health(path, worker) for worker in ("w0", "w1")] == ["trusted", "trusted"]


async def say_after(reader, writer, answer):
    """Read one request, say *answer*, close."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    writer.write(answer)
    writer.close()


async def test_a_worker_that_answers_with_errors_is_ejected_and_comes_back_through_one_request(start_path, connections):
    async with start_path(upstream={"suspect_s": 0.01}, health={"ejection_s": 2.0, "slow_start_s": 0.0}) as path:
        await path.engines[0].fault(error_next=-1)
        while health(path) != "ejected":
            assert (await ask(connections, path.url, path.key, BODY)).is_finished
            await asyncio.sleep(0.011)
        failed = len(await path.engines[0].journal())
        assert failed == sum(figures(path).faults.values()) == 5
        assert "5 faults in a row" in figures(path).reason
        endings = await ask_often(path, connections, BODY, 5, at_once=5)
        assert {ending.worker for ending in endings} == {"w1"}
        await path.engines[0].fault(error_next=0)
        await until(lambda: health(path) == "half_open")
        assert path.views[0].free_seqs + path.views[1].free_seqs == 1 + 8
        endings = await ask_often(path, connections, BODY, 40)
        assert all(ending.is_finished for ending in endings)
        assert {ending.worker for ending in endings} == {"w0", "w1"}
        assert health(path) == "trusted"


async def test_a_worker_that_stays_broken_costs_one_request_an_ejection(start_path, connections):
    async with start_path(upstream={"suspect_s": 0.01}, health=QUICK | {"faults_in_row": 1}) as path:
        await path.engines[0].fault(error_next=-1)
        while figures(path).ejections < 3:
            endings = await asyncio.gather(*(ask(connections, path.url, path.key, BODY) for _ in range(4)))
            assert all(ending.is_finished for ending in endings)
        first = 8  # the most that were on it before it was found out
        assert len(await path.engines[0].journal()) <= first + figures(path).ejections


async def test_a_worker_that_beats_but_cannot_be_reached_from_here_is_ejected(start_path, connections):
    async with hung_engine(accept_only) as (url, _):
        pass  # nobody listens there any more
    async with start_path(upstream={"suspect_s": 0.01}) as path:
        await path.beat(0, url=url)
        while health(path) != "ejected":
            await path.beat(0, url=url)
            ending = await ask(connections, path.url, path.key, STREAM)
            assert (ending.is_finished, ending.worker) == (True, "w1")
            await asyncio.sleep(0.011)
        assert {fault.label: count for fault, count in figures(path).faults.items() if count} == {"unreachable": 5}


async def test_hung_workers_hold_only_their_own_requests_and_no_longer_than_the_limits(start_path, connections):
    upstream = {"header_timeout_s": LIMIT_S, "first_byte_timeout_s": LIMIT_S, "attempts_max": 3}
    rules = {"faults_in_row": 2, "pool_share_max": 0.75, "ejection_s": 600, "ejection_s_max": 600}
    held = []
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(start_path(count=4, upstream=upstream, health=rules))
        for number, how in enumerate([accept_only, say_head_only, trickle]):
            url, connected = await stack.enter_async_context(hung_engine(how))
            held.append(connected)
            await path.beat(number, url=url, max_seqs=2)
        times = await timed(path, connections)
        direct = [took_s for took_s, attempts in times if attempts == 1]
        assert len(times) - len(direct) == 6, "what the hung workers had, all of it, went elsewhere"
        assert p99(direct) < LIMIT_S, "whoever is held by a hung worker is held for its whole limit"
        for worker in ("w0", "w1", "w2"):
            assert (health(path, worker), figures(path, worker).in_flight) == ("ejected", 0)
            assert sum(figures(path, worker).faults.values()) == 2
        await until(lambda: not any(held))


async def timed(path, connections, count=300, at_once=12):
    """Ask streams, so that a pool is half busy; gives how long each took, and how many workers."""
    took_s, left = {}, iter(range(count))

    async def client():
        for _ in left:
            began_s = let_run_s()
            ending = await ask(connections, path.url, path.key, STREAM | {"max_tokens": 4})
            assert ending.is_finished, ending.body
            took_s[ending.request_id] = let_run_s() - began_s

    await asyncio.gather(*(client() for _ in range(at_once)))
    events = await path.events()
    return [(took_s[event["id"]], event["attempts"]) for event in events.values()]


def p99(times):
    ordered = sorted(times)
    return ordered[int(0.99 * len(ordered))]


async def test_a_worker_that_does_not_even_answer_a_knock_is_tried_by_no_request(start_path, connections):
    asked = []

    async def note_and_hang(reader, writer):
        asked.append((await reader.read(1 << 20)).split(b" HTTP", 1)[0])

    upstream = {"header_timeout_s": 1.0, "connect_timeout_s": 1.0}
    rules = {"faults_in_row": 1, "ejection_s": 3.0}
    async with hung_engine(note_and_hang) as (url, _), start_path(upstream=upstream, health=rules) as path:
        await path.beat(0, url=url)
        while health(path) != "ejected":
            await ask_often(path, connections, STREAM, 4, at_once=4)
        tried = asked.count(b"POST /v1/chat/completions")
        while figures(path).ejections < 2:
            assert (await ask(connections, path.url, path.key, STREAM)).worker == "w1"
            await asyncio.sleep(0.05)
        assert figures(path).reason.startswith("no good answer at /health")
        assert asked.count(b"GET /health") >= 1
        assert asked.count(b"POST /v1/chat/completions") == tried, "no request was spent on it"
        assert figures(path).left_s > 3.0


async def test_when_a_pool_fails_as_a_whole_few_requests_are_tried_twice_and_the_others_are_told(
    start_path, connections
):
    upstream = {"retry_share": 0.2, "retries_min": 3}
    async with start_path(upstream=upstream) as path:
        for engine in path.engines:
            await engine.fault(error_next=-1)
        began_s = time.monotonic()
        endings = await ask_often(path, connections, BODY, 100, at_once=8)
        windows = 1 + (time.monotonic() - began_s) // WINDOW_S
        text = await scrape(path)
        tries = sum([len(await engine.journal()) for engine in path.engines])
    assert {ending.status for ending in endings} == {502}
    refused = [json.loads(ending.body)["error"] for ending in endings if b"retry_budget_spent" in ending.body]
    assert "no more than 20% of them and 3 besides" in refused[0]["message"]
    assert tries == 200 - len(refused) <= 100 + 20 + 3 * windows
    assert f'sluice_retries_refused_total{{pool="tiny"}} {len(refused)}.0' in text
    assert f'sluice_refusals_total{{class="standard",code="retry_budget_spent"}} {len(refused)}.0' in text


async def test_a_gateway_makes_no_more_connections_to_a_worker_than_it_may(start_path, connections):
    async with start_path(upstream={"connections_max": 2, "suspect_s": 600}) as path:
        await path.beat(1, state=WorkerState.DRAINING)
        asking = [asyncio.create_task(ask(connections, path.url, path.key, STREAM)) for _ in range(5)]
        endings = await asyncio.gather(*asking)
        assert {ending.status for ending in endings} == {200, 502}
        assert any(b"has 2 connections to it" in ending.body for ending in endings)
        assert health(path) == "trusted"


async def test_workers_have_series_until_they_are_gone(start_path, connections):
    async with start_path() as path:
        await path.engines[0].fault(error_next=1)
        await path.beat(1, running=5)
        assert (await ask(connections, path.url, path.key, STREAM)).is_finished
        text = await scrape(path)
        assert 'sluice_worker_failures_total{fault="status",worker="w0"} 1.0' in text
        assert 'sluice_worker_health{health="suspect",worker="w0"} 1.0' in text
        assert 'sluice_worker_state{state="ready",worker="w1"} 1.0' in text
        assert 'sluice_worker_ttft_seconds_count{worker="w1"} 1.0' in text
        assert 'sluice_worker_ejections_total{worker="w0"} 0.0' in text
        await path.gateway._roster.forget("w0")
        assert 'worker="w0"' not in await scrape(path)
