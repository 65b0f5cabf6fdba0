"""A gateway with a Redis behind it, and a client of its async lane."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.path.conftest import start_path
from tests.servers.sim_engines import start_sim

__all__ = ["start_path", "start_sim"]

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True}
PATH = "/v1/chat/completions"


class Client:
    """One tenant's client."""

    def __init__(self, url: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=20, trust_env=False)

    async def submit(self, body=BODY, **headers) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        path = "/v1/completions" if "prompt" in body else PATH
        return await self.http.post(path, json=body, headers={"prefer": "respond-async", **named})

    async def ticket(self, body=BODY, **headers) -> dict:
        answer = await self.submit(body, **headers)
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def status(self, ticket) -> dict:
        answer = await self.http.get(ticket["status_url"])
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def result(self, ticket) -> httpx.Response:
        return await self.http.get(ticket["result_url"])

    async def until(self, ticket, *statuses, within_s=20) -> dict:
        """Ask for the status until it is one of *statuses*."""
        async with asyncio.timeout(within_s):
            while (now := await self.status(ticket))["status"] not in statuses:
                await asyncio.sleep(0.02)
        return now


@asynccontextmanager
async def client_of(url, key):
    client = Client(url, key)
    async with client.http:
        yield client


@pytest.fixture
def start_lane(start_path, redis_url):
    """A context manager that runs a gateway with an async lane; gives the path and a client of its tenant."""

    @asynccontextmanager
    async def start(**options):
        async with start_path(**{"redis_url": redis_url, **options}) as path, client_of(path.url, path.key) as client:
            yield path, client

    return start
