"""
How two backlogged tenants share a pool over three gateways, when one sends long prompts and the other short ones.

Both always have more waiting than the pool takes at once; each of their clients comes through one of the gateways. What
each got is read from the Journal: tokens as the policy counts them, uncached prompt plus twice the completion. Shared
by requests, as a round robin would, the tenant of long prompts would get eight times as much.
"""

import asyncio
import random
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from gateway.serve.wire import ConnectionPool
from tests.bench.load import TIMEOUT_S, request_bytes
from tests.servers.installation import Installation
from tests.servers.redis_server import RedisServer

RUNS = 3
WARM_S, MEASURED_S = 8.0, 60.0
GATEWAYS, WORKERS, MAX_SEQS = 3, 2, 8
CLIENTS = 45  # of each tenant: more than twice the slots
WORDS = {"long": 2000, "short": 100}  # a prompt of the one has twenty times the tokens of the other
MAX_TOKENS = 100
ENGINE = ("--max-num-batched-tokens", "8192", "--engine-arg=--inter-token-ms=10")


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives the median over RUNS stretches of one load, with their spread."""
    with ExitStack() as stack:
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.kill)
        installation = Installation(folder / "home", redis_url=redis.url)
        stack.callback(installation.close)
        for _ in range(GATEWAYS):
            installation.add_gateway()
        keys = {"long": installation.declare("long"), "short": _key(installation, "short")}
        for _ in range(WORKERS):
            installation.add_worker("sim", "--max-num-seqs", str(MAX_SEQS), *ENGINE)
        for worker in installation.workers:
            worker.wait_ready(60)
        stretches = asyncio.run(_load([gateway.url for gateway in installation.gateways], keys))
        installation.wait_shipped()
        ratios = [
            _work(installation, "long", *stretch) / _work(installation, "short", *stretch) for stretch in stretches
        ]
    name = "long_prompts_tokens_over_short"
    return {name: statistics.median(ratios), f"{name}_range": max(ratios) - min(ratios)}


def _key(installation: Installation, tenant: str) -> str:
    installation.sluice("tenants", "create", tenant)
    key: str = installation.sluice_json("keys", "create", "--tenant", tenant)["key"]
    return key


async def _load(urls: list[str], keys: dict[str, str]) -> list[tuple[int, int]]:
    """Keep both tenants asking; gives the stretches to look at, in Unix milliseconds."""
    stop, stretches = asyncio.Event(), []
    asking = [
        asyncio.create_task(_ask_on(urls[number % len(urls)], key, tenant, number, stop))
        for tenant, key in keys.items()
        for number in range(CLIENTS)
    ]
    await asyncio.sleep(WARM_S)
    for _ in range(RUNS):
        began_ms = time.time_ns() // 1_000_000
        await asyncio.sleep(MEASURED_S)
        stretches.append((began_ms, time.time_ns() // 1_000_000))
    stop.set()
    await asyncio.gather(*asking)
    return stretches


async def _ask_on(url: str, key: str, tenant: str, number: int, stop: asyncio.Event) -> None:
    dice = random.Random(f"{tenant}/{number}")
    pool = ConnectionPool(connect_timeout_s=10, keep_alive_s=60)
    while not stop.is_set():
        content = f"{dice.random()} " + "gate " * round(WORDS[tenant] * dice.uniform(0.5, 1.5))
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "ignore_eos": True}
        connection = pool.take_idle(url) or await pool.connect(url)
        connection.send(request_bytes(url, key, body | {"max_tokens": dice.randint(MAX_TOKENS // 2, MAX_TOKENS)}))
        assert await connection.head(TIMEOUT_S) == 200, await connection.read(TIMEOUT_S)
        while await connection.read(TIMEOUT_S):
            pass
        pool.give_back(url, connection)
    pool.close()


def _work(installation: Installation, tenant: str, from_ms: int, to_ms: int) -> int:
    """Sum the work of a tenant's requests that ended in a stretch."""
    return sum(
        event["prompt_tokens"] - event["cached_tokens"] + 2 * event["completion_tokens"]
        for event in installation.events().values()
        if event["tenant"] == tenant and from_ms <= event["ended_ms"] < to_ms
    )
