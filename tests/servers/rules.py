"""Limits and budgets of the running gateway of a test, and a client of its tenant."""

import asyncio
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx
import uvicorn

from gateway.app import Gateway
from gateway.core.budgets import Budget
from gateway.core.limits import Limit
from gateway.stores.sql_directory import SqlDirectory
from tests.servers.edge import config_of
from tests.waiting import until

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True}
LONG = BODY | {"max_tokens": 2000, "stream": True}


def a_limit(metric: str, amount: int, **changes) -> Limit:
    fields = {"id": f"lim_{metric}", "scope": "tenant", "subject": "acme", "tenant": "acme", **changes}
    return Limit(metric=metric, amount=amount, **fields)


def a_budget(amount: int, **changes) -> Budget:
    fields = {"id": "bud_1", "scope": "tenant", "subject": "acme", "tenant": "acme", "kind": "money"}
    return Budget(amount=amount, **{**fields, "period": "total", "is_hard": True, **changes})


async def declare(path, *rules: Limit | Budget) -> None:
    """Have *path*'s gateway go by *rules*."""
    store = SqlDirectory(path.gateway._database)
    for rule in rules:
        (store.put_limit if isinstance(rule, Limit) else store.put_budget)(rule)
    await known(path, *rules)


async def known(path, *rules: Limit | Budget) -> None:
    """Wait until the gateway of *path* goes by *rules*."""
    follower = path.gateway._directory

    def are_known():
        snapshot = follower.snapshot
        return all(
            (snapshot.limits if isinstance(rule, Limit) else snapshot.budgets).get(rule.id) == rule for rule in rules
        )

    await until(are_known)


def client_of(path) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {path.key}"}
    return httpx.AsyncClient(base_url=path.url, headers=headers, timeout=30, trust_env=False)


async def chat(client: httpx.AsyncClient, headers=None, **changes) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={**BODY, **changes}, headers=headers)


@asynccontextmanager
async def beside(path):
    """Run one more gateway with the settings of *path*'s: the same database, the same Redis, the same engines."""
    gateway = Gateway(path.gateway._settings)
    await gateway.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config_of(gateway))
        serving = asyncio.create_task(server._serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield SimpleNamespace(gateway=gateway, url=url, key=path.key)
        finally:
            server.should_exit = True
            await serving
            await gateway.aclose()
