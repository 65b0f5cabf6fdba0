"""Simulated engines in the test's own event loop, on real sockets."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import httpx
import pytest

from workers.engines.sim_batch import Pace
from workers.engines.sim_engine import Engine, SimConfig
from workers.engines.sim_http import Connection

FAST = Pace(prefill_tokens_per_s=1e6, inter_token_s=0.002)


class Sim:
    """A simulated engine that listens, with a client for it."""

    def __init__(self, engine: Engine, url: str, http: httpx.AsyncClient) -> None:
        self.engine, self.url, self.http = engine, url, http

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", httpx.URL(self.url).port

    async def complete(self, **body):
        return await self.http.post("/v1/completions", json={"model": "tiny", "prompt": "a b c", **body})

    async def chat(self, content="Hello", **body):
        messages = [{"role": "user", "content": content}]
        return await self.http.post("/v1/chat/completions", json={"model": "tiny", "messages": messages, **body})

    async def journal(self):
        return (await self.http.get("/sim/journal")).json()["entries"]

    async def fault(self, **faults):
        (await self.http.post("/sim/faults", json=faults)).raise_for_status()

    async def until(self, is_so):
        """Wait until *is_so()* of the engine's own state; it changes with its steps."""
        async with asyncio.timeout(10):
            while not is_so():
                await asyncio.sleep(0.001)


@pytest.fixture
async def start_sim():
    """A function that starts a simulated engine with the given fields of SimConfig."""
    async with AsyncExitStack() as stack:

        async def start(**config):
            engine = Engine(SimConfig(**{"pace": FAST, **config}))
            server = await asyncio.get_running_loop().create_server(partial(Connection, engine.serve), "127.0.0.1", 0)
            stack.callback(server.close)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10, trust_env=False))
            return Sim(engine, url, http)

        yield start
