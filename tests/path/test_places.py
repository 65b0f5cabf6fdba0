"""GET /v1/queue/{id}: where a request stands, for its own tenant."""

import httpx
import pytest

from gateway.control.keys import create_key
from gateway.control.tenants import create_tenant
from gateway.serve.wire import ConnectionPool
from gateway.stores.sql_directory import SqlDirectory
from tests.path.conftest import NOW_MS
from tests.path.waiting_clients import BODY, QUICK, STREAM, busy, until_waiting, waits
from tests.waiting import until


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


async def where(path, name, key=None):
    async with httpx.AsyncClient() as http:
        headers = {"authorization": f"Bearer {key or path.key}"}
        return await http.get(f"{path.url}/v1/queue/{name}", headers=headers)


async def test_a_request_is_found_while_it_waits_and_while_it_runs_and_not_after(start_path, connections):
    async with start_path(count=1, queue=QUICK) as path, busy(path, connections, tokens=1500):
        client = waits(path, STREAM | {"max_tokens": 500})
        await until(lambda: client.status == 200)
        await until(lambda: path.gateway._admission.place(client.id))
        queued = (await where(path, client.id)).json()
        assert queued == {
            "object": "queue.ticket",
            "id": client.id,
            "status": "queued",
            "position": 1,
            "eta_s": queued["eta_s"],
            "waiting": 1,
        }
        await until(lambda: b"data:" in client.body)
        running = (await where(path, client.id)).json()
        assert (running["status"], running["position"], running["eta_s"]) == ("running", None, None)
        await client.done
        assert (await where(path, client.id)).status_code == 404
        assert len(await path.events()) == 2  # of the two requests: to ask costs nothing


async def test_a_caller_may_ask_by_its_own_name_for_the_request(start_path, connections):
    """A request that is no stream learns its id with its answer: too late to ask where it stands."""
    async with start_path(count=1) as path, busy(path, connections, tokens=700):
        client = waits(path, BODY, x_client_request_id="mine-1")
        await until_waiting(path, 1)
        answer = await where(path, "mine-1")
        assert (answer.status_code, answer.json()["status"]) == (200, "queued")
        await client.done
        assert answer.json()["id"] == client.id
        assert (await where(path, "mine-1")).status_code == 404
        assert not path.gateway._admission._ids


async def test_another_tenants_ticket_is_404(start_path, connections):
    async with start_path(count=1) as path, busy(path, connections, tokens=700):
        directory = SqlDirectory(path.gateway._database)
        create_tenant(directory, "other")
        _, key = create_key(directory, "other", now_ms=NOW_MS)
        snapshot = path.gateway._directory
        await until(lambda: "other" in snapshot.snapshot.tenants)
        client = waits(path, BODY, x_client_request_id="mine-2")
        await until_waiting(path, 1)
        request_id = (await where(path, "mine-2")).json()["id"]
        for name in (request_id, "mine-2", "req_0", "no/such/thing"):
            answer = await where(path, name, key)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"]
        await client.done


@pytest.mark.parametrize("key", ["sk-sluice-wrong", "sk-of-another"])
async def test_a_stranger_is_401(start_path, key):
    async with start_path(count=0) as path, httpx.AsyncClient() as http:
        answer = await http.get(f"{path.url}/v1/queue/req_0", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 401
