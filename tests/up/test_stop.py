"""Stopping loses nothing: a gateway that is asked to end says so, serves whom it let in, and lets requests end."""

import asyncio
import socket
import time

import httpx
import pytest

from gateway.serve.wire import ConnectionPool
from tests.bench.load import request_bytes
from tests.servers.clients import COUNTED, ask
from tests.servers.installation import Installation
from tests.waiting import until

TOKENS = 300  # at 5 ms each: a stream of a second and a half
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS, "ignore_eos": True}
SHORT = BODY | {"max_tokens": 3}

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def installation(tmp_path_factory, redis_server):
    """A gateway that is started anew by each test, and a worker behind it."""
    installation = Installation(tmp_path_factory.mktemp("stop") / "home", redis_url=redis_server.url)
    installation.add_gateway()
    installation.key = installation.declare()
    installation.add_worker("sim", "--engine-arg=--inter-token-ms=5").wait_ready(60)
    yield installation
    installation.close()


@pytest.fixture
def start(installation):
    """A function that starts the gateway with further settings and an empty log; gives it and a key."""

    def start(**environ):
        [gateway] = installation.gateways
        gateway.kill_tree()
        gateway.log.unlink()
        gateway.environ |= environ
        gateway.start()
        installation.workers[0].wait_ready(60)
        return installation, gateway, installation.key

    return start


def is_draining(gateway) -> bool:
    return '"draining"' in gateway.log.read_text()


async def test_a_stream_under_way_ends_whole_and_is_billed_when_its_gateway_is_stopped(start):
    installation, gateway, key = start(SLUICE_DRAIN_ANNOUNCE_S="0")
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
    stream = asyncio.create_task(ask(connections, gateway.url, key, BODY | {"stream": True, "stream_options": COUNTED}))
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(gateway.metric, "sluice_in_flight_requests"):
            await asyncio.sleep(0.01)
    stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
    await until(lambda: '"door_closed"' in gateway.log.read_text())  # a request that comes before that is served
    late = await ask(ConnectionPool(connect_timeout_s=5, keep_alive_s=30), gateway.url, key, SHORT)
    ending = await stream

    assert late.status == 0, "a new one finds nobody listening"
    assert ending.is_finished
    assert ending.usage.completion == TOKENS
    assert await stopping == 0
    assert installation.events()[ending.request_id]["completion_tokens"] == TOKENS


async def test_the_stop_is_announced_while_all_is_served_and_each_answer_closes_its_connection(start):
    _, gateway, key = start(SLUICE_DRAIN_ANNOUNCE_S="3")
    bearer = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer, timeout=10) as kept:
        before = await kept.post("/v1/chat/completions", json=SHORT)
        assert "connection" not in before.headers
        stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
        await until(lambda: is_draining(gateway))
        known = await kept.post("/v1/chat/completions", json=SHORT)
        assert (known.status_code, known.headers["connection"]) == (200, "close")
        async with httpx.AsyncClient(base_url=gateway.url, headers=bearer) as new:
            ready = await new.get("/readyz")
            assert (ready.status_code, ready.json()["components"]["serving"]["ok"]) == (503, False)
            assert (await new.post("/v1/chat/completions", json=SHORT)).status_code == 200
    assert await stopping == 0


async def test_whom_the_kernel_has_let_in_is_served_before_the_door_closes(start):
    """Clients connect and send while the process gets no CPU; then the first thing it learns is that it is to stop."""
    _, gateway, key = start(SLUICE_DRAIN_ANNOUNCE_S="0")
    gateway.freeze_tree()
    clients = [socket.create_connection(("127.0.0.1", gateway.port), timeout=30) for _ in range(30)]
    for client in clients[:20]:
        client.sendall(request_bytes(gateway.url, key, SHORT))
    gateway._process.terminate()
    gateway.thaw_tree()
    await until(lambda: '"door_closed"' in gateway.log.read_text())
    for client in clients[20:]:  # these have been let in, and ask now
        client.sendall(request_bytes(gateway.url, key, SHORT))
    for client in clients:
        answer = await asyncio.to_thread(client.recv, 65536)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close\r\n" in answer
        client.close()
    assert await asyncio.to_thread(gateway._process.wait, 30) == 0


async def test_what_does_not_end_in_time_is_told_so_and_a_second_signal_hurries(start):
    _, gateway, key = start(SLUICE_DRAIN_ANNOUNCE_S="0", SLUICE_DRAIN_S="600")
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
    long = BODY | {"max_tokens": 4000}
    asked = [
        asyncio.create_task(ask(connections, gateway.url, key, body))
        for body in (long, long | {"stream": True, "stream_options": COUNTED})
    ]
    async with asyncio.timeout(10):
        while await asyncio.to_thread(gateway.metric, "sluice_in_flight_requests") < 2:
            await asyncio.sleep(0.01)
    gateway._process.terminate()
    await until(lambda: '"door_closed"' in gateway.log.read_text())
    began = time.monotonic()
    gateway._process.terminate()
    plain, stream = await asyncio.gather(*asked)
    assert await asyncio.to_thread(gateway._process.wait, 30) == 0
    assert time.monotonic() - began < 20
    assert (plain.status, b'"draining"' in plain.body) == (503, True)
    assert stream.has_error_event
    assert b'"draining"' in stream.body
