"""A whole gateway in the test's own loop, on a real socket, with simulated engines behind it."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
import uvicorn

from gateway.app import Gateway
from gateway.control.keys import create_key
from gateway.control.models import declare_model
from gateway.control.tenants import create_tenant
from gateway.core.roster import Beat, WorkerState
from gateway.settings import load_settings
from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql_directory import SqlDirectory
from tests.servers.edge import config_of
from tests.servers.sim_engines import start_sim

__all__ = ["start_sim"]

NOW_MS = 1_700_000_000_000


class Path:
    """A running gateway, its URL, a key, and the engines behind it."""

    def __init__(self, gateway, url, key, engines):
        self.gateway, self.url, self.key, self.engines = gateway, url, key, engines

    @property
    def queue(self):
        return repr(self.gateway._admission.queues["tiny"])

    @property
    def views(self):
        return self.gateway._roster.views("tiny")

    async def beat(self, number: int, **changes) -> None:
        """Have the worker of engine *number* beat."""
        beat = {"pool": "tiny", "models": ("tiny",), "url": self.engines[number].url, "state": WorkerState.READY}
        await self.gateway._roster.beat(Beat(worker=f"w{number}", **{**beat, "max_seqs": 8, **changes}))

    async def events(self):
        """Give all meter events, once the Journal has every one."""
        await self.gateway._spool.flush()
        while self.gateway._shipper.backlog_events:
            await asyncio.sleep(0.01)
        with self.gateway._database.reading() as connection:
            rows = connection.exec_driver_sql("SELECT * FROM meter_events").mappings()
            return {row["id"]: dict(row) for row in rows}


@pytest.fixture
def start_path(tmp_path, start_sim):
    """A context manager that runs a gateway over *count* engines; further options are settings."""

    @asynccontextmanager
    async def start(count=2, engine=None, home=tmp_path, **options):
        engines = [await start_sim(**(engine or {})) for _ in range(count)]
        options = {"spool": {"ship_interval_s": 0.02}, "roster": {"lease_s": 600}, **options}
        settings = load_settings({}, home=home, **options)
        key = _declare(settings)
        gateway = Gateway(settings)
        await gateway.start()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(config_of(gateway))
            serving = asyncio.create_task(server._serve([listener]))
            path = Path(gateway, f"http://127.0.0.1:{listener.getsockname()[1]}", key, engines)
            for number in range(count):
                await path.beat(number)
            try:
                yield path
            finally:
                server.should_exit = True
                await serving
                await gateway.aclose()

    return start


def _declare(settings) -> str:
    migrate(settings.sql_url)
    database = Database(settings.sql_url)
    directory = SqlDirectory(database)
    create_tenant(directory, "acme")
    declare_model(directory, "tiny", "tiny", now_ms=NOW_MS)
    _, secret = create_key(directory, "acme", now_ms=NOW_MS)
    database.close()
    return secret
