"""How a gateway takes workers, as operators see it: over HTTP and in `sluice status`."""

import asyncio

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from rich.console import Console

from gateway.commands.status import _print
from gateway.control.api import control_app
from gateway.core.health import WorkerFault
from gateway.stores.memory_roster import MemoryRoster
from tests.conformance.rosters import HandClock, beat

TOKEN, NOW_MS = "an-admin-token", 1_700_000_000_000


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def roster(clock):
    roster = MemoryRoster(clock, lease_s=60)
    for worker in ("gpu-1", "gpu-2"):
        asyncio.run(roster.beat(beat(worker)))
    for _ in range(5):
        roster.suspect("gpu-1", WorkerFault.FIRST_BYTE)
    return roster


@pytest.fixture
def shown(directory, roster):
    """A function that lists the workers over HTTP, by name."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    app = control_app(directory, roster, SecretStr(TOKEN), now_ms=lambda: NOW_MS)
    with TestClient(app, headers=headers) as client:
        yield lambda: {one["worker"]: one for one in client.get("/admin/v1/workers").json()["data"]}


def test_the_list_says_who_is_ejected_why_and_until_when(shown):
    ejected, trusted = shown()["gpu-1"], shown()["gpu-2"]
    assert (ejected["health"], ejected["credit_seqs"], ejected["ejections"]) == ("ejected", 0, 1)
    assert ejected["health_reason"] == "5 faults in a row, the last: it did not begin to answer in time"
    assert NOW_MS + 10_000 <= ejected["health_until_ms"] <= NOW_MS + 12_000
    assert ejected["faults"] == {"first_byte": 5}
    assert (trusted["health"], trusted["health_until_ms"], trusted["faults"]) == ("trusted", None, {})


def test_the_list_lets_time_have_its_way(shown, clock):
    clock.advance(20)
    assert (shown()["gpu-1"]["health"], shown()["gpu-1"]["health_until_ms"]) == ("half_open", None)


def test_status_shows_it_beside_each_worker(shown, capsys):
    workers = [worker | {"health_until_ms": worker["health_until_ms"] and 0} for worker in shown().values()]
    _print({"url": "http://g", "ready": True, "components": {}, "workers": workers, "scale": []}, Console())
    ejected, trusted = (line for line in capsys.readouterr().out.splitlines() if "gpu-" in line)
    assert "ejected, 0 s left" in ejected
    assert "5 faults in a row" in ejected
    assert "trusted" in trusted
