"""What the client of a stream is told while it waits, and that nothing it is told breaks anything."""

import asyncio
import json
import re
import time

import pytest

from gateway.core.directory import ServiceClass
from gateway.core.request import parse_chat
from gateway.serve.http import TRANSPORT_EXTENSION, Call, Reply
from gateway.serve.wire import ConnectionPool
from gateway.serve.wishes import read_wishes
from tests.path.waiting_clients import BODY, COMMENT, QUICK, STREAM, busy, until_waiting, waits
from tests.waiting import until
from workers.engines.sim_batch import Pace

STANDARD = ServiceClass.STANDARD
SCOPE = {"method": "POST", "path": "/v1/chat/completions", "headers": []}


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


async def test_a_stream_is_told_its_place_and_then_its_answer(start_path, connections):
    async with start_path(count=1, queue=QUICK) as path, busy(path, connections, tokens=1500) as taking:
        client = waits(path)
        await until(lambda: COMMENT.search(client.body))
        assert client.headers["content-type"].startswith("text/event-stream")
        await client.done
        ahead = await taking
        [event] = [one for one in (await path.events()).values() if one["id"] == client.id]
    told = COMMENT.findall(client.body)
    assert (told[0][0], told[0][2], told[0][3]) == (b"1", b"1", client.id.encode())
    worker = f": worker=w0 queue_ms={event['queue_ms']} cached_tokens=[0-9]+\n\ndata:"
    assert re.search(worker.encode(), client.body)
    assert client.body.endswith(b"data: [DONE]\n\n")
    assert event["outcome"] == "completed"
    assert event["queue_ms"] > 500
    assert ahead.is_finished


async def test_places_are_told_anew_as_they_change_and_the_expected_wait_comes_with_the_first_completion(
    start_path, connections
):
    async with start_path(count=1, queue=QUICK | {"keep_alive_s": 50}) as path:
        async with busy(path, connections, tokens=200):
            clients = [waits(path, STREAM | {"max_tokens": 600}) for _ in range(5)]
            await until_waiting(path, 5)
            await asyncio.gather(*(client.done for client in clients))
        metrics = path.gateway._metrics.render()
    told = [COMMENT.findall(client.body) for client in clients]
    last = max(filter(None, told), key=lambda one: int(one[0][0]))
    positions = [int(position) for position, *_ in last]
    assert positions == sorted(positions, reverse=True)
    assert len(set(positions)) > 1
    assert any(eta_s for _, eta_s, *_ in last)
    assert b'sluice_queue_eta_error_ratio_count{pool="tiny"}' in metrics


async def test_events_are_for_programs(start_path, connections):
    async with start_path(count=1, queue=QUICK) as path, busy(path, connections, tokens=1000):
        client = waits(path, x_queue_events="events")
        await until(lambda: b"event: queue\n" in client.body)
        await client.done
    event = client.body[client.body.index(b"event: queue\n") :].split(b"\n\n")[0].split(b"\ndata: ")[1]
    told = json.loads(event)
    assert set(told) == {"object", "id", "position", "eta_s", "waiting"}
    assert (told["object"], told["id"]) == ("queue.place", client.id)
    assert client.body.endswith(b"data: [DONE]\n\n")


async def test_who_wants_nothing_gets_headers_and_then_only_the_answer(start_path, connections):
    async with start_path(count=1, queue=QUICK) as path, busy(path, connections, tokens=700) as taking:
        client = waits(path, x_queue_events="none")
        await until(lambda: client.status == 200)
        assert not taking.done()
        await client.done
    assert client.body.startswith(b"data: {")
    assert b"\n:" not in client.body


async def test_an_old_go_sdk_gets_no_blank_line_before_its_answer(start_path, connections):
    """It takes the blank line after a comment for the end of an event without data, and fails."""
    async with start_path(count=1, queue=QUICK) as path, busy(path, connections, tokens=700):
        client = waits(path, user_agent="OpenAI/Go 1.12.0")
        await until(lambda: client.body)
        await client.done
    comments, _, answer = client.body.partition(b"data: ")
    assert set(comments.split(b"\n")) == {b":", b""}
    assert b"\n\n" not in comments
    assert answer.endswith(b"data: [DONE]\n\n")


async def test_signs_of_life_go_on_while_an_engine_works_on_the_prompt(start_path):
    slow = Pace(prefill_tokens_per_s=20.0, inter_token_s=0.002)
    async with start_path(count=1, engine={"pace": slow}, queue=QUICK) as path:
        prompt = "word " * 100
        client = waits(path, STREAM | {"messages": [{"role": "user", "content": prompt}]})
        await client.done
    assert client.body.count(f": running id={client.id}\n\n".encode()) >= 2
    assert client.body.endswith(b"data: [DONE]\n\n")


async def test_a_request_that_is_no_stream_just_waits(start_path, connections):
    async with start_path(count=1, queue=QUICK) as path, busy(path, connections, tokens=700):
        client = waits(path, BODY)
        await client.done
    assert client.headers["x-sluice-worker"] == "w0"
    assert int(client.headers["x-sluice-queue-ms"]) > 500
    assert json.loads(client.body)["usage"]["completion_tokens"] == 5


async def test_an_engines_own_refusal_after_the_headers_is_an_error_event(start_path, connections):
    async with start_path(count=1, engine={"max_model_len": 4096}, queue=QUICK) as path:
        async with busy(path, connections, tokens=700):
            client = waits(path, STREAM | {"messages": [{"role": "user", "content": "word " * 5000}]})
            await client.done
        [event] = [one for one in (await path.events()).values() if one["id"] == client.id]
    assert client.status == 200
    error = json.loads(client.body.split(b"data: ")[1])["error"]
    assert "4096" in error["message"]
    assert client.body.endswith(b"\n\n")
    assert b"[DONE]" not in client.body
    assert (event["outcome"], event["status"]) == ("engine_refused", 400)


async def test_a_worker_that_fails_after_the_headers_is_an_error_event(start_path, connections):
    async with start_path(count=1, queue=QUICK) as path, busy(path, connections, tokens=700):
        client = waits(path)
        await until(lambda: client.status == 200)
        await path.engines[0].fault(error_next=-1)
        await client.done
    assert b'data: {"error": {' in client.body
    assert b'"upstream_failed"' in client.body
    assert b"[DONE]" not in client.body


async def test_a_client_that_leaves_while_it_is_told_frees_its_place_at_once(start_path, connections):
    async with start_path(count=1, queue=QUICK) as path, busy(path, connections):
        client = waits(path)
        await until(lambda: COMMENT.search(client.body))
        await until_waiting(path, 1)
        client.done.cancel()
        left = asyncio.get_running_loop().time()
        await until_waiting(path, 0)
        assert asyncio.get_running_loop().time() - left < 0.25
        await until(lambda: not path.gateway._admission.is_waiting(client.id))


async def test_a_client_that_does_not_read_is_passed_over(start_path, connections):
    """What it was sent before fills its connection; to wait for it would hold up everybody else's telling."""
    accepted = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), "127.0.0.1", 0)
    async with server, start_path(count=1) as path:
        _, client = await asyncio.open_connection(*server.sockets[0].getsockname())
        client.transport.pause_reading()
        writer = await accepted
        sent = []

        async def send(message):
            sent.append(message)
            writer.write(message.get("body", b""))
            await writer.drain()

        reply = Reply({"extensions": {TRANSPORT_EXTENSION: {"transport": writer.transport}}}, send)
        await reply.begin_stream()
        record = path.gateway._make_plane().metering.open(Call(SCOPE, None, id="req_0", arrived_ms=0, body_bytes_max=0))
        record.request, record.wishes = parse_chat(json.dumps(STREAM).encode(), None), read_wishes({}, STANDARD)
        async with path.gateway._waiting.post(record, reply) as post:
            await post.tell(time.monotonic())
            assert sent[-1]["body"] == b": running id=req_0\n\n"
            writer.write(b"x" * (64 << 20))  # more than the kernel keeps for it
            count = len(sent)
            async with asyncio.timeout(1):
                await post.tell(time.monotonic() + 60)
            assert len(sent) == count
        writer.transport.abort()
        client.transport.abort()


async def test_a_wait_that_would_be_too_long_is_429_with_what_to_do(start_path, connections):
    """Of a wait that is known the client hears at once; of one that is not, when its time is over."""
    async with start_path(count=1) as path, busy(path, connections) as taking:
        client = waits(path, x_request_deadline_ms="300")
        await client.done
        error = json.loads(client.body)["error"]
        assert (client.status, error["code"]) == (429, "wait_too_long")
        assert 1 <= int(client.headers["retry-after"]) <= 60
        assert not taking.done()


@pytest.mark.parametrize(
    ("headers", "status", "param"),
    [
        ({"x_sluice_class": "urgent"}, 400, "X-Sluice-Class"),
        ({"x_sluice_class": "interactive"}, 403, "X-Sluice-Class"),
        ({"x_request_deadline_ms": "soon"}, 400, "X-Request-Deadline-Ms"),
        ({"x_queue_events": "all"}, 400, "X-Queue-Events"),
    ],
)
async def test_a_wish_that_cannot_be_is_refused_and_named(start_path, headers, status, param):
    async with start_path(count=1) as path:
        client = waits(path, **headers)
        await client.done
        [event] = (await path.events()).values()
    assert (client.status, json.loads(client.body)["error"]["param"]) == (status, param)
    assert event["status"] == status


async def test_a_less_urgent_class_that_is_wished_is_the_one_booked(start_path):
    async with start_path(count=1) as path:
        await waits(path, x_sluice_class="batch").done
        [event] = (await path.events()).values()
    assert event["service_class"] == "batch"


async def test_refusals_are_counted_by_code(start_path):
    async with start_path(count=1) as path:
        await waits(path, BODY | {"model": "nope"}).done
        scraped = path.gateway._metrics.render()
    assert b'sluice_refusals_total{class="standard",code="model_not_found"} 1.0' in scraped
