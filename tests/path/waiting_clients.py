"""Clients that wait: what they are sent, as it comes."""

import asyncio
import re
from contextlib import asynccontextmanager

import httpx

from tests.servers.clients import ask
from tests.waiting import until

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "ignore_eos": True}
STREAM = BODY | {"stream": True}
COMMENT = re.compile(rb": queue position=(\d+)(?: eta_s=(\d+\.\d))? waiting=(\d+) id=(req_[0-9a-f]+)\n\n")
# Quick enough for a test: headers after 0.1 s, a sign of life at every look, which comes every 2 s.
QUICK = {"headers_hold_s": 0.1, "keep_alive_s": 1.0}


class Client:
    """A client that reads what it is sent; *done* is its task."""

    def __init__(self, path, body, headers):
        self.body = b""
        self.status = 0
        self.headers = {}
        self.done = asyncio.create_task(self._read(path, body, headers))

    async def _read(self, path, body, headers):
        own = {"authorization": f"Bearer {path.key}"} | headers
        async with (
            httpx.AsyncClient(timeout=30) as http,
            http.stream("POST", f"{path.url}/v1/chat/completions", json=body, headers=own) as answer,
        ):
            self.status, self.headers = answer.status_code, answer.headers
            async for part in answer.aiter_raw():
                self.body += part

    @property
    def id(self):
        return self.headers["x-request-id"]


def waits(path, body=STREAM, **headers):
    """Start a client; names of headers are given with underscores."""
    return Client(path, body, {name.replace("_", "-"): value for name, value in headers.items()})


@asynccontextmanager
async def busy(path, connections, tokens=3000):
    """Have the only slot taken for the block; with the default, for some six seconds at most."""
    await path.beat(0, max_seqs=1)
    taking = asyncio.create_task(ask(connections, path.url, path.key, STREAM | {"max_tokens": tokens}))
    await until(lambda: "tiny" in path.gateway._admission.queues and "[1 in flight, 0 waiting" in path.queue)
    try:
        yield taking
    finally:
        taking.cancel()


async def until_waiting(path, count):
    await until(lambda: f" {count} waiting" in path.queue)
