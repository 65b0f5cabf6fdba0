"""What a request meets when workers, the line or its own body fail it; and how each ending is booked."""

import asyncio

import httpx
import pytest

from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, ask
from tests.waiting import until

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True}
STREAM = BODY | {"stream": True, "stream_options": COUNTED}


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


async def only_event(path):
    [event] = (await path.events()).values()
    return event


@pytest.mark.parametrize(
    ("fault", "body"),
    [({"error_next": -1}, BODY), ({"error_next": -1}, STREAM), ({"crash_next": -1, "crash_after_tokens": 0}, BODY)],
)
async def test_a_failure_before_the_first_byte_is_tried_on_another_worker_and_billed_once(
    start_path, connections, fault, body
):
    async with start_path() as path:
        await path.engines[0].fault(**fault)
        await path.beat(1, running=5)  # so that the faulty one is asked first
        ending = await ask(connections, path.url, path.key, body)
        event = await only_event(path)
    assert ending.is_finished
    assert (event["attempts"], event["worker"], event["flag"]) == (2, "w1", "exact")
    assert event["completion_tokens"] == ending.usage.completion == 20


async def test_a_stream_that_only_said_who_speaks_is_still_tried_elsewhere(start_path, connections):
    """A frame with the role comes before the first content; an engine that dies between the two costs nothing."""
    opening = (
        b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async def say_who_speaks(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"%x\r\n%s\r\n" % (len(opening), opening))
        writer.close()

    dying = await asyncio.start_server(say_who_speaks, "127.0.0.1", 0)
    async with dying, start_path() as path:
        await path.beat(0, url=f"http://127.0.0.1:{dying.sockets[0].getsockname()[1]}")
        await path.beat(1, running=5)
        ending = await ask(connections, path.url, path.key, STREAM)
        event = await only_event(path)
    assert ending.is_finished
    assert (event["attempts"], event["worker"], event["completion_tokens"]) == (2, "w1", 20)


async def test_a_worker_that_failed_is_asked_last_until_it_answers_well(start_path, connections):
    async with start_path() as path:
        await path.engines[0].fault(error_next=1)
        await path.beat(1, running=5)
        await ask(connections, path.url, path.key, BODY)
        assert [view.is_suspect for view in sorted(path.views, key=lambda view: view.id)] == [True, False]
        await ask(connections, path.url, path.key, BODY)
        assert (await path.engines[1].journal())[-1]["outcome"] == "done"
        assert len(await path.engines[1].journal()) == 2


async def test_a_stream_cut_in_the_middle_ends_with_an_error_event_and_is_billed_as_delivered(start_path, connections):
    async with start_path(count=1, upstream={"continuations_max": 0}) as path:
        await path.engines[0].fault(crash_next=1, crash_after_tokens=7)
        ending = await ask(connections, path.url, path.key, STREAM)
        event = await only_event(path)
    assert ending.has_error_event
    assert not ending.is_finished
    assert (event["outcome"], event["flag"]) == ("upstream_failed", "delivered")
    assert event["completion_tokens"] == ending.usage.completion == 7


async def test_when_every_worker_fails_the_client_is_told_which_and_pays_nothing(start_path, connections):
    async with start_path() as path:
        for engine in path.engines:
            await engine.fault(error_next=-1)
        ending = await ask(connections, path.url, path.key, BODY)
        event = await only_event(path)
    assert ending.status == 502
    assert b"2 workers were tried" in ending.body
    assert (event["outcome"], event["attempts"], event["completion_tokens"]) == ("upstream_failed", 2, 0)


async def test_a_hung_worker_holds_nobody_longer_than_its_limit(start_path, connections):
    async with start_path(upstream={"first_byte_timeout_s": 0.3}) as path:
        await path.engines[0].fault(hang_next=1)
        await path.beat(1, running=5)
        ending = await ask(connections, path.url, path.key, BODY)
        assert ending.is_finished
        assert (await only_event(path))["attempts"] == 2


async def test_a_full_line_is_429_and_loses_nobody_who_waits(start_path, connections):
    async with start_path(count=1, queue={"waiting_max": 1}) as path:
        await path.beat(0, max_seqs=1)
        first = asyncio.create_task(ask(connections, path.url, path.key, BODY | {"max_tokens": 400}))
        await until(lambda: "tiny" in path.gateway._admission.queues and "[1 in flight, 0 waiting" in path.queue)
        second = asyncio.create_task(ask(connections, path.url, path.key, BODY))
        await until(lambda: "[1 in flight, 1 waiting" in path.queue)
        refused = await ask(connections, path.url, path.key, BODY)
        assert refused.status == 429
        assert b'"queue_full"' in refused.body
        assert all(ending.is_finished for ending in await asyncio.gather(first, second))
        outcomes = sorted(event["outcome"] for event in (await path.events()).values())
        assert outcomes == ["completed", "completed", "queue_full"]


async def test_a_body_over_the_limit_is_413_and_named(start_path, connections):
    async with start_path(body_bytes_max=2000) as path:
        ending = await ask(connections, path.url, path.key, BODY | {"padding": "x" * 5000})
        assert ending.status == 413
        assert b"2000 bytes" in ending.body
        assert (await only_event(path))["outcome"] == "body_too_large"


async def test_bytes_that_are_not_http_are_answered_in_openais_form(start_path):
    async with start_path(count=0) as path:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(path.url).port)
        writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"invalid_http"' in answer
