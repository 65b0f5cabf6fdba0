"""
What admission costs a gateway of the largest kind: 12,500 ready workers in the roster, 200,000 keys in the directory.

A whole gateway over a real Redis and SQLite; requests go from the bearer key through parse, line and credit to the
choice of a worker, one after the other, with room for all. CPU is that of the one thread, request by request: nothing
on the way waits, so nothing else runs meanwhile. Beats are taken in as they come, a second's worth between the runs.
"""

import asyncio
import json
import secrets
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path

from sqlalchemy import insert

from gateway.app import Gateway
from gateway.control.keys import create_key
from gateway.control.models import declare_model
from gateway.control.tenants import create_tenant
from gateway.core.ids import request_id
from gateway.core.request import parse_chat
from gateway.core.roster import Beat, WorkerState
from gateway.serve.http import Call
from gateway.serve.plane import Plane
from gateway.serve.wishes import read_wishes
from gateway.settings import Settings, load_settings
from gateway.stores import schema
from gateway.stores.database import Database
from gateway.stores.sql_directory import SqlDirectory
from gateway.telemetry.logs import configure_logs
from tests.servers.redis_server import RedisServer

RUNS = 5
WORKERS, SEQS = 12_500, 64
KEYS = 200_000
REQUESTS = 2_000
POOL = "qwen"
BODY = json.dumps({"model": POOL, "messages": [{"role": "user", "content": "river " * 100}], "stream": True}).encode()


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives medians over RUNS runs, with the spread of each."""
    configure_logs("json", "error")
    (folder / "redis").mkdir(parents=True)
    server = RedisServer(folder / "redis")
    server.start()
    try:
        settings = load_settings({}, home=folder, redis_url=server.url, roster={"lease_s": 600})
        runs = asyncio.run(_measure(settings, _declare(settings)))
    finally:
        server.kill()
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


def _declare(settings: Settings) -> str:
    """Declare a tenant with KEYS keys, of which one is used, and a model."""
    schema.migrate(settings.sql_url)
    database = Database(settings.sql_url, timeout_s=60)
    directory = SqlDirectory(database)
    create_tenant(directory, "acme")
    declare_model(directory, POOL, POOL, now_ms=1)
    key, secret = create_key(directory, "acme", now_ms=1)
    row = {"tenant": "acme", "project": key.project, "name": "", "hint": "0000", "created_ms": 1, "is_revoked": False}
    version = directory.changes_since(0).version
    rows = [row | {"id": f"key_{n}", "digest": secrets.token_hex(32), "version": version} for n in range(KEYS)]
    with database.writing() as connection:
        connection.execute(insert(schema.keys), rows)
    database.close()
    return secret


async def _measure(settings: Settings, secret: str) -> list[dict[str, float]]:
    gateway = Gateway(settings)
    await gateway.start()
    try:
        await _beat_all(gateway)
        await _requests(gateway.edge._plane, secret, 200)  # warm-up
        return [await _one_run(gateway, secret) for _ in range(RUNS)]
    finally:
        await gateway.aclose()


async def _one_run(gateway: Gateway, secret: str) -> dict[str, float]:
    began_s = time.thread_time()
    await _beat_all(gateway)
    beats_s = time.thread_time() - began_s
    took = sorted(await _requests(gateway.edge._plane, secret, REQUESTS))
    return {
        "admission_cpu_us_p50": 1e6 * took[len(took) // 2],
        "admission_cpu_us_p99": 1e6 * took[len(took) * 99 // 100],
        "cpu_us_per_beat": 1e6 * beats_s / WORKERS,
    }


async def _beat_all(gateway: Gateway) -> None:
    for n in range(WORKERS):
        await gateway._roster.beat(_beat(n))
        if n % 500 == 0:
            await asyncio.sleep(0)


def _beat(n: int) -> Beat:
    """Give the beat of a worker that is somewhat busy."""
    return Beat(
        worker=f"w{n}",
        pool=POOL,
        models=(POOL,),
        url=f"http://10.0.{n // 256}.{n % 256}:8000",
        state=WorkerState.READY,
        max_seqs=SEQS,
        max_batched_tokens=8192,
        running=n % 32,
    )


async def _requests(plane: Plane, secret: str, count: int) -> list[float]:
    """Admit *count* requests, one after the other; give the CPU time of each until it has its worker."""
    took = []
    for _ in range(count):
        async with AsyncExitStack() as stack:
            call = _call(secret)
            began_s = time.thread_time()
            record = await stack.enter_async_context(plane.metering.open(call))
            record.caller = caller = plane.authn.identify(call.headers)
            record.wishes = read_wishes(call.headers, caller.service_class)
            record.request = plane.read(parse_chat, caller, BODY)
            record.model = model = plane.model(record.request.model)
            await stack.enter_async_context(plane.admission.enter(model, record))
            took.append(time.thread_time() - began_s)
        await asyncio.sleep(0.001)  # other tasks' turn: what they do is not the request's
    return took


def _call(secret: str) -> Call:
    now_ms = time.time_ns() // 1_000_000
    headers = [(b"authorization", b"Bearer " + secret.encode())]
    scope = {"method": "POST", "path": "/v1/chat/completions", "headers": headers}

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    return Call(scope, receive, id=request_id(now_ms), arrived_ms=now_ms, body_bytes_max=1 << 20)
