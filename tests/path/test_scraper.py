"""Prometheus is no part of serving: it may be away, or ask and never read what it is told."""

import asyncio

import httpx
import pytest

from gateway.serve.wire import ConnectionPool
from tests.path.waiting_clients import BODY
from tests.servers.clients import ask

ASK = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
async def connections():
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
    yield connections
    connections.close()


async def test_scrapers_that_ask_and_never_read_delay_nobody(start_path, connections):
    async with start_path(count=1) as path:
        port = httpx.URL(path.url).port
        deaf = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(10)]
        for _, writer in deaf:
            writer.transport.pause_reading()
            writer.write(200 * ASK)  # some 5 MB of answers each
        for _ in range(10):
            assert (await ask(connections, path.url, path.key, BODY)).is_finished
        async with httpx.AsyncClient() as http:
            scraped = await http.get(f"{path.url}/metrics")
        assert "sluice_requests_total" in scraped.text
        for _, writer in deaf:
            writer.transport.abort()
        assert (await ask(connections, path.url, path.key, BODY)).is_finished
