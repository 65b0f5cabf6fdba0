"""Stopping loses nothing: a gateway that is asked to end lets requests end first."""

import asyncio

import pytest

from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, ask
from tests.servers.installation import Installation

TOKENS = 300  # at 5 ms each: a stream of a second and a half
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS, "ignore_eos": True}

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]


@pytest.fixture
def installation(tmp_path, redis_url):
    installation = Installation(tmp_path / "home", redis_url=redis_url)
    yield installation
    installation.close()


async def test_a_stream_under_way_ends_whole_and_is_billed_when_its_gateway_is_stopped(installation):
    gateway = installation.add_gateway()
    key = installation.declare()
    installation.add_worker("sim", "--engine-arg=--inter-token-ms=5").wait_ready(30)
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
    stream = asyncio.create_task(ask(connections, gateway.url, key, BODY | {"stream": True, "stream_options": COUNTED}))
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(gateway.metric, "sluice_in_flight_requests"):
            await asyncio.sleep(0.01)
    stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
    async with asyncio.timeout(10):
        while '"draining"' not in gateway.log.read_text():  # a request that comes before the signal is served
            await asyncio.sleep(0.01)
    late = await ask(ConnectionPool(connect_timeout_s=5, keep_alive_s=30), gateway.url, key, BODY)
    ending = await stream

    assert late.status in {0, 503}, "a new request is refused, or finds nobody listening"
    assert ending.is_finished
    assert ending.usage.completion == TOKENS
    assert await stopping == 0
    assert installation.events()[ending.request_id]["completion_tokens"] == TOKENS
