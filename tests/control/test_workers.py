"""What operators order of workers, over HTTP."""

import asyncio

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from gateway.control.api import control_app
from gateway.core.orders import Order
from gateway.core.roster import Beat, WorkerState
from gateway.stores.memory_roster import MemoryRoster

TOKEN = "an-admin-token"


def beat(worker: str, state: WorkerState = WorkerState.READY) -> Beat:
    return Beat(worker=worker, pool="qwen", models=("qwen",), url="http://w:1", state=state, max_seqs=8)


@pytest.fixture
def roster():
    roster = MemoryRoster(lease_s=60)
    for worker in ("gpu-1", "gpu-2"):
        asyncio.run(roster.beat(beat(worker)))
    return roster


@pytest.fixture
def client(directory, roster):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with TestClient(control_app(directory, roster, SecretStr(TOKEN), now_ms=lambda: 90_000), headers=headers) as client:
        yield client


def shown(client):
    return {one["worker"]: one for one in client.get("/admin/v1/workers").json()["data"]}


def test_the_list_shows_state_order_requests_in_flight_and_since_when(client, roster):
    with roster.working("gpu-1", 100), roster.working("gpu-1", 100):
        one = shown(client)["gpu-1"]
    assert (one["state"], one["order"], one["in_flight"], one["pool"], one["url"]) == (
        "ready",
        "serve",
        2,
        "qwen",
        "http://w:1",
    )
    assert 0 <= 90_000 - one["since_ms"] < 60_000


def test_a_cordon_is_undone_and_leaves_the_other_worker_alone(client, roster):
    cordoned = client.post("/admin/v1/workers/gpu-1/cordon").json()
    assert (cordoned["state"], cordoned["order"]) == ("cordoned", "cordon")
    assert [worker["state"] for worker in shown(client).values()] == ["cordoned", "ready"]
    assert client.post("/admin/v1/workers/gpu-1/uncordon").json()["state"] == "ready"


def test_a_drain_cannot_be_undone_and_may_be_ordered_twice(client, roster):
    for _ in range(2):
        assert client.post("/admin/v1/workers/gpu-1/drain").json()["state"] == "draining"
    for verb in ("cordon", "uncordon"):
        answer = client.post(f"/admin/v1/workers/gpu-1/{verb}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "worker_drains")
        assert "cannot be undone" in answer.json()["error"]["message"]
    assert roster.standing("gpu-1").order is Order.DRAIN


def test_a_worker_that_drains_by_itself_takes_no_other_order(client, roster):
    asyncio.run(roster.beat(beat("gpu-1", WorkerState.DRAINING)))
    assert client.post("/admin/v1/workers/gpu-1/uncordon").status_code == 409


def test_a_name_that_is_not_known_is_told_with_those_like_it(client):
    answer = client.post("/admin/v1/workers/gpu-3/drain")
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    assert "There is no worker 'gpu-3' now." in message
    assert "'gpu-1'" in message
    assert "sluice worker list" in client.post("/admin/v1/workers/quux/drain").json()["error"]["message"]
