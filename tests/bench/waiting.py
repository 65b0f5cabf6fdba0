"""
What a waiting client costs a gateway: memory each, and CPU while nothing moves but the telling of places.

Streams wait behind the one slot of a simulated worker, which a long stream holds. Memory is the growth of the gateway's
resident set, CPU the operating system's account of its process less that of the same time with nobody waiting.
`python -m tests.bench.waiting` runs it alone.
"""

import asyncio
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from gateway.serve.wire import ConnectionPool
from tests.bench.load import TIMEOUT_S, request_bytes
from tests.servers.installation import GatewayServer, Installation
from tests.servers.redis_server import RedisServer

RUNS = 3
CLIENTS, AT_ONCE = 2000, 50
SETTLED_S, MEASURED_S = 4.0, 10.0
PROMPT = "word " * 400  # some 2 kB
# One slot whose stream takes some minutes; the line must not be refused for being slow.
WORKER = ("--max-num-seqs", "1", "--max-model-len", "30000", "--engine-arg=--inter-token-ms=10")
PATIENT = {"SLUICE_QUEUE__WAIT_S_MAX__STANDARD": "1e6", "SLUICE_QUEUE__TENANT_SHARE": "1"}


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives medians over RUNS runs, with the spread of each."""
    with ExitStack() as stack:
        (folder / "redis").mkdir(parents=True)
        redis = RedisServer(folder / "redis")
        redis.start()
        stack.callback(redis.kill)
        installation = Installation(folder / "home", redis_url=redis.url, SLUICE_LOG_LEVEL="warning", **PATIENT)
        stack.callback(installation.close)
        gateway = installation.add_gateway()
        key = installation.declare()
        worker = installation.add_worker("sim", *WORKER)
        worker.wait_ready(60)
        runs = [asyncio.run(_run(gateway, worker.name, key)) for _ in range(RUNS)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


async def _run(gateway: GatewayServer, worker: str, key: str) -> dict[str, float]:
    """Measure a gateway that has just started: what it held before would serve the next ones without growing."""
    gateway.kill()
    gateway.start()
    gateway.wait_until("hearing its worker", lambda: worker in gateway.ready_workers(), 60)
    process = psutil.Process(gateway.pid)
    connections = ConnectionPool(connect_timeout_s=10, keep_alive_s=60, connections_max=CLIENTS + AT_ONCE)
    holding = asyncio.create_task(_wait(connections, gateway.url, key, 25_000))
    await _warm(connections, gateway.url, key)
    idle_cpu_s, rss = await _cpu_s(process), process.memory_info().rss
    waiting = []
    for _ in range(CLIENTS // AT_ONCE):
        waiting += [asyncio.create_task(_wait(connections, gateway.url, key, 16)) for _ in range(AT_ONCE)]
        await asyncio.sleep(0.1)
    await asyncio.sleep(SETTLED_S)
    grown = process.memory_info().rss - rss
    busy_cpu_s = await _cpu_s(process)
    assert not any(task.done() for task in [holding, *waiting]), "everyone waits until the end"
    for task in [holding, *waiting]:
        task.cancel()
    await asyncio.gather(holding, *waiting, return_exceptions=True)
    return {
        "waiting_kib": grown / 1024 / CLIENTS,
        "waiting_cpu_us_per_s": (busy_cpu_s - idle_cpu_s) / MEASURED_S / CLIENTS * 1e6,
    }


async def _warm(connections: ConnectionPool, url: str, key: str) -> None:
    """Have some wait and leave, so that what a first request makes is not taken for the cost of one."""
    tasks = [asyncio.create_task(_wait(connections, url, key, 16)) for _ in range(AT_ONCE)]
    await asyncio.sleep(SETTLED_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _cpu_s(process: psutil.Process) -> float:
    before, began_s = process.cpu_times(), time.monotonic()
    await asyncio.sleep(MEASURED_S - (time.monotonic() - began_s))
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system


async def _wait(connections: ConnectionPool, url: str, key: str, tokens: int) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens, "stream": True}
    connection = await connections.connect(url)
    try:
        connection.send(request_bytes(url, key, body | {"ignore_eos": True}))
        assert await connection.head(TIMEOUT_S) == 200
        while await connection.read(TIMEOUT_S):
            pass
    finally:
        connection.close()


if __name__ == "__main__":
    with TemporaryDirectory() as home:
        print(json.dumps(measure(Path(home)), indent=2))
