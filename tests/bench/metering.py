"""
What metering costs: time at both ends of a stream, and CPU.

The times compare three gateways at the same time, over the same worker: one as it is, one whose spool lies in memory,
where a sync costs nothing, and one where nobody waits for its spool. All else lies in memory, too, so that the disk has
one writer; what it alone takes stands beside the figures.
The CPU is that of a process which opens, progresses and closes requests in a spool and ships them; SQLite's is in it,
PostgreSQL's is told apart. `python -m tests.bench.metering` runs it alone.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.core.usage import Usage
from gateway.serve.wire import Connection, ConnectionPool
from gateway.stores.database import Database
from gateway.stores.open_shipper import OpenShipper
from gateway.stores.schema import migrate
from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_open import SqlOpenRequests
from tests.bench import metering_gateway
from tests.bench.load import TIMEOUT_S, request_bytes
from tests.meter_events import event, opened
from tests.parts import postgres_programs
from tests.prices import PRICES
from tests.servers.installation import GatewayServer, Installation
from tests.servers.postgres_server import PostgresServer
from tests.waiting import until

RUNS = 3
STREAMS = 40  # of each gateway, one after the other
SYNCS, RECORD = 100, b"x" * 700
MEMORY = Path("/dev/shm")
BODY = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "river " * 200}],
    "max_tokens": 15,
    "stream": True,
    "ignore_eos": True,
}
# Some 20 ms of prefill, as a small model's on a GPU has at the least: OPEN is written meanwhile.
SIM = ("--inter-token-ms=10", "--prefill-tokens-per-s=10000")
REQUESTS, OPEN_AT_ONCE = 2000, 100


class BenchGateway(GatewayServer):
    """One gateway of `metering_gateway`."""

    def __init__(self, kind: str, home: Path, environ: dict[str, str]) -> None:
        super().__init__(kind, home / kind, environ)
        self.argv = [sys.executable, "-m", metering_gateway.__name__, kind]


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives medians over RUNS runs, with the spread of each."""
    with ExitStack() as stack:
        memory = Path(stack.enter_context(TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else folder)))
        installation = Installation(memory / "home", SLUICE_LOG_LEVEL="warning")
        stack.callback(installation.close)
        key = installation.declare()
        for kind, home in (("waits", folder), ("waits-in-memory", memory), ("does-not", memory)):
            installation.gateways.append(BenchGateway(kind, home, installation.environ))
            installation.gateways[-1].start()
        options = ("--max-num-seqs", "64", *(f"--engine-arg={option}" for option in SIM))
        installation.add_worker("sim", *options).wait_ready(60)
        postgres = stack.enter_context(_postgres())
        urls = [gateway.url for gateway in installation.gateways]
        runs = [_one_run(urls, key, postgres, folder / f"run-{run}") for run in range(RUNS)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


@contextmanager
def _postgres() -> Iterator[PostgresServer | None]:
    """Run a PostgreSQL for the block, if this machine has one."""
    if postgres_programs() is None:
        yield None
        return
    with TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _one_run(urls: list[str], key: str, postgres: PostgresServer | None, folder: Path) -> dict[str, float]:
    folder.mkdir()
    waited, in_memory, unwaited = asyncio.run(_all_streams(urls, key))
    figures = {
        "end_of_stream_p50_ms": waited.end_ms,
        "end_of_stream_added_p50_ms": waited.end_ms - unwaited.end_ms,
        "end_added_in_memory_p50_ms": in_memory.end_ms - unwaited.end_ms,
        "disk_sync_p50_ms": _disk_sync_ms(folder),
        "ttft_p50_ms": waited.ttft_ms,
        "ttft_ratio": waited.ttft_ms / unwaited.ttft_ms,
        "ttft_in_memory_ratio": in_memory.ttft_ms / unwaited.ttft_ms,
        "cpu_us_spool": asyncio.run(_cpu_us(folder / "alone", None)),
        "cpu_us_with_sqlite": asyncio.run(_cpu_us(folder / "sqlite", f"sqlite:///{folder / 'sluice.db'}")),
    }
    if postgres is not None:
        url = postgres.new_database(f"bench_{time.monotonic_ns()}")
        before = postgres.cpu_s()
        figures["cpu_us_with_postgres"] = asyncio.run(_cpu_us(folder / "postgres", url))
        figures["cpu_us_of_postgres"] = (postgres.cpu_s() - before) / REQUESTS * 1e6
    return figures


@dataclass(frozen=True)
class _Times:
    """Medians over streams: until the first byte; from the last token to the end."""

    ttft_ms: float
    end_ms: float


def _disk_sync_ms(folder: Path) -> float:
    """Give the median time of a record's write and sync on the disk of *folder*, with nobody else in the way."""
    times = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(RECORD)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


async def _all_streams(urls: list[str], key: str) -> list[_Times]:
    return await asyncio.gather(*(_streams(url, request_bytes(url, key, BODY)) for url in urls))


async def _streams(url: str, data: bytes) -> _Times:
    pool, times = ConnectionPool(connect_timeout_s=10, keep_alive_s=60), []
    for _ in range(STREAMS):
        connection = pool.take_idle(url) or await pool.connect(url)
        connection.send(data)
        times.append(await _stream(connection))
        pool.give_back(url, connection)
    pool.close()
    first, end = zip(*times, strict=True)
    return _Times(1000 * statistics.median(first), 1000 * statistics.median(end))


async def _stream(connection: Connection) -> tuple[float, float]:
    """Read one stream; gives the seconds to its first token, and those from its last token to its end."""
    began = time.perf_counter()
    assert await connection.head(TIMEOUT_S) == 200
    first = last = now = 0.0
    while part := await connection.read(TIMEOUT_S):
        now = time.perf_counter()
        first = first or now
        if b'"content"' in part:
            last = now
    return first - began, now - last


async def _cpu_us(folder: Path, url: str | None) -> float:
    """Give the CPU time of this process per request that goes through a spool, and into the database at *url*."""
    spool = FileSpool(folder, "bench")
    database = None
    if url:
        migrate(url)
        database = Database(url)
        SqlDirectory(database).put_prices(PRICES)
    before = time.process_time()
    shipper = _shipper(spool, database) if database else None
    if shipper:
        await shipper.start()
    requests = iter(range(REQUESTS))
    await asyncio.gather(*(_requests(spool, requests) for _ in range(OPEN_AT_ONCE)))
    if shipper:
        await until(lambda: not shipper.backlog_events, within_s=TIMEOUT_S)
        await shipper.aclose()
    used = time.process_time() - before
    await spool.aclose()
    if database:
        database.close()
    return used / REQUESTS * 1e6


def _shipper(spool: FileSpool, database: Database) -> Shipper:
    table = SqlOpenRequests(database, "bench", lease_s=3600)
    return Shipper(spool, SqlJournal(database), OpenShipper(table, spool.requests, after_s=10, lease_s=3600))


async def _requests(spool: FileSpool, numbers: Iterator[int]) -> None:
    for number in numbers:
        await spool.open(opened(number, price=PRICES[0].id))
        spool.progress(opened(number).id, Usage(10, 5))
        await spool.close(event(number, price=PRICES[0].id))


if __name__ == "__main__":
    with TemporaryDirectory() as here:
        print(json.dumps(measure(Path(here)), indent=2))
