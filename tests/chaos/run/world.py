"""What a run attacks: gateways on two hosts, engines with journals, Redis, a database, a disk that can be filled."""

import contextlib
import http.client
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import redis

from gateway.control.keys import create_key
from gateway.core.directory import Model, Tenant
from gateway.stores.database import Database
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from tests.chaos.run import budgets, prices
from tests.chaos.run.plan import ACCOUNTS
from tests.servers.installation import GatewayServer, Installation
from tests.servers.postgres_server import PostgresServer
from tests.servers.redis_server import RedisServer

CLOCK = Path(__file__).parent / "clock"
SMALL_DISK_BYTES = 24 << 20
SPOOL = {
    "SLUICE_SPOOL__SEGMENT_BYTES": str(256 << 10),
    "SLUICE_SPOOL__PROGRESS_TOKENS": "32",  # answers are short: every tenth has some progress to be settled by
    "SLUICE_SPOOL__OPEN_SHIP_AFTER_S": "1",
    "SLUICE_LOG_LEVEL": "warning",
}
SMALL_BUDGET = {"SLUICE_SPOOL__BYTES_MAX": str(1 << 20), "SLUICE_SPOOL__SEGMENT_BYTES": str(64 << 10)}
SMALL_DISK = {"SLUICE_SPOOL__FREE_BYTES_MIN": str(1 << 20)}
# Engines that cost little: tokens come as fast as they can be made, several to a frame.
ENGINES = (("--stream-interval=8", "--inter-token-ms=4"), ("--stream-interval=16", "--inter-token-ms=8"))


class Gateway(GatewayServer):
    """A gateway with a clock of its own; its CPU time is counted over all its lives."""

    def __init__(self, name: str, home: Path, environ: dict[str, str]) -> None:
        self.clock = home / f"{name}.clock"
        self.step_clock(0)
        path = os.pathsep.join([str(CLOCK), *filter(None, [os.environ.get("PYTHONPATH")])])
        stepped = {"PYTHONPATH": path, "CHAOS_CLOCK": str(self.clock)}
        super().__init__(name, home, environ | stepped)
        self.spools = home / "spool"
        self.cpu_s = 0.0
        self.kills = 0

    def step_clock(self, by_s: float) -> None:
        """Set its time of day *by_s* ahead of the true one, from now on; it may run or not."""
        self.clock.parent.mkdir(parents=True, exist_ok=True)
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("<d", by_s))

    def spool(self) -> Path:
        """Find the folder that it writes to; raises ValueError if it has made none yet. Others it holds it adopted."""
        held = [Path(file.path) for file in psutil.Process(self.pid).open_files() if file.path.endswith("/lock")]
        return max(held, key=lambda lock: lock.stat().st_mtime).parent

    def strike(self, dice: random.Random, copy_to: Path | None = None) -> None:
        """
        Kill it at once, in whatever it does; now and then with the first bytes of one more record behind the last.

        A stopped process holds its lock, so that nobody adopts its spool before it has the bytes, and before it was
        copied to *copy_to*.
        """
        os.kill(self.pid, signal.SIGSTOP)
        with contextlib.suppress(ValueError, OSError):  # it has no spool yet, or its disk is full
            if dice.random() < 0.5:
                _tear(self.spool(), dice)
            if copy_to is not None:
                shutil.copytree(self.spool(), copy_to)
        self.count_cpu()
        self.kill()
        self.kills += 1

    def count_cpu(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(self.pid).cpu_times()
            self.cpu_s += times.user + times.system

    def _is_live(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _tear(spool: Path, dice: random.Random) -> None:
    segments = sorted(spool.glob("*.seg"))
    if segments and len(data := segments[-1].read_bytes()) > 8:
        whole = 8 + struct.unpack_from("<I", data)[0]
        with segments[-1].open("ab") as file:
            file.write(data[: dice.randrange(1, whole)])


class World:
    """Everything that runs; `close` ends it and takes the small disk away."""

    def __init__(self, folder: Path, database: str, now_ms: int) -> None:
        self.folder = folder
        self.small_disk = folder / "other" / "spool"
        self._stack = contextlib.ExitStack()
        try:
            self._build(database, now_ms)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def _build(self, database: str, now_ms: int) -> None:
        folder = self.folder
        self.redis = self._start_redis()
        self.postgres = self._start_postgres() if database == "postgres" else None
        url = self.postgres.new_database("chaos") if self.postgres else ""
        self.installation = Installation(folder / "home", redis_url=self.redis.url, database_url=url, **SPOOL)
        self._stack.callback(self.installation.close)
        self.database_url = self.installation.environ["SLUICE_DATABASE_URL"]
        self.keys = _declare(self.database_url, now_ms)
        self.has_small_disk = self._mount()
        self.gateways = self._start_gateways()
        self.journals = self._start_workers()

    @contextlib.contextmanager
    def database_away(self, dice: random.Random) -> Iterator[None]:
        """Take the database away: stopped, frozen, or locked by somebody else."""
        if self.postgres is None:
            with _locked(self.installation.home / "sluice.db"):
                yield
        elif dice.random() < 0.5:
            with self.postgres.frozen():
                yield
        else:
            self.postgres.stop()
            yield
            self.postgres.start()

    @contextlib.contextmanager
    def disk_full(self) -> Iterator[None]:
        """Fill the disk of the third gateway's spool to the last byte while the block runs."""
        ballast = self.small_disk / ".ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            ballast.unlink()

    def flush_redis(self) -> None:
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushall()

    def engine_urls(self) -> list[str]:
        return [worker["url"] for worker in self.gateways[0].workers()]

    def stop(self) -> None:
        """End all gateways as an operator would, so that what they have is shipped."""
        for gateway in self.gateways:
            gateway.count_cpu()
            gateway.stop()

    def leftover(self) -> list[str]:
        """Name what is left in the spools' folders: nothing, once all is shipped."""
        roots = {gateway.spools for gateway in self.gateways}
        return sorted(str(path) for root in roots if root.is_dir() for path in root.iterdir())

    def _start_redis(self) -> RedisServer:
        server = RedisServer(self.folder)
        server.start()
        self._stack.callback(server.kill)
        return server

    def _start_postgres(self) -> PostgresServer:
        folder = self.folder / "postgres"
        folder.mkdir()
        server = PostgresServer(folder)
        server.start()
        self._stack.callback(server.stop)
        return server

    def _mount(self) -> bool:
        """Give the third gateway's spool a disk of its own, if we may; root may."""
        self.small_disk.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(self.small_disk)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return False
        self._stack.callback(subprocess.run, ["umount", "--lazy", str(self.small_disk)], check=False)
        return True

    def _start_gateways(self) -> list[Gateway]:
        """Two that share a host, one of which has a small budget of disk, and one on a host with a small disk."""
        environ = self.installation.environ
        gateways = [
            Gateway("first", self.installation.home, environ),
            Gateway("second", self.installation.home, environ | SMALL_BUDGET),
            Gateway("third", self.small_disk.parent, environ | SMALL_DISK),
        ]
        for gateway in gateways:
            self.installation.gateways.append(gateway)
            gateway.start()
        return gateways

    def _start_workers(self) -> list[Path]:
        journals = []
        for number, options in enumerate(ENGINES):
            journals.append(self.folder / f"engine-{number}.jsonl")
            given = (*options, f"--journal={journals[-1]}", "--prefill-tokens-per-s=1000000")
            self.installation.add_worker("sim", "--max-num-seqs=64", *(f"--engine-arg={each}" for each in given))
        for worker in self.installation.workers:
            worker.wait_ready(60)
        return journals


def _declare(database_url: str, now_ms: int) -> dict[str, str]:
    """Declare model, tenants, prices and budgets; gives the tenants' keys."""
    database = Database(database_url)
    store = SqlDirectory(database)
    store.put_model(Model(name="tiny", pool="tiny", created_ms=now_ms))
    store.put_prices(prices.versions(now_ms))
    keys = {}
    for account in ACCOUNTS:
        store.put_tenant(Tenant(id=account.tenant, name=account.tenant, service_class=account.service_class))
        keys[account.tenant] = create_key(store, account.tenant, now_ms=now_ms)[1]
    for budget in budgets.declared(now_ms):
        store.put_budget(budget)
    SqlBudgets(database).transfer(budgets.paid_in_advance(now_ms))
    database.close()
    return keys


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep everybody from writing to a SQLite database, as a stuck process would."""
    connection = sqlite3.connect(file, timeout=30, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()
