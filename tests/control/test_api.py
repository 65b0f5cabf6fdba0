"""/admin/v1 over HTTP."""

import asyncio

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from gateway.control.api import control_app
from gateway.core.ids import digest
from gateway.core.roster import Beat, WorkerState
from gateway.stores.database import Database
from gateway.stores.memory_roster import MemoryRoster
from gateway.stores.sql_directory import SqlDirectory

TOKEN = "an-admin-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def roster():
    return MemoryRoster(lease_s=60)


@pytest.fixture
def client(directory, roster):
    with TestClient(control_app(directory, roster, SecretStr(TOKEN), now_ms=lambda: 1000), headers=BEARER) as client:
        yield client


@pytest.fixture
def acme(client):
    return client.post("/admin/v1/tenants", json={"name": "Acme"}).json()


def test_a_tenant_is_created_listed_suspended_and_resumed(client):
    created = client.post("/admin/v1/tenants", json={"name": "Acme", "service_class": "interactive"})
    assert created.status_code == 201
    tenant = {"id": "acme", "name": "Acme", "service_class": "interactive", "weight": 1, "is_suspended": False}
    assert created.json() == tenant
    assert client.get("/admin/v1/tenants").json() == {"object": "list", "data": [tenant]}
    assert client.post("/admin/v1/tenants/acme/suspend").json()["is_suspended"]
    assert not client.post("/admin/v1/tenants/acme/resume").json()["is_suspended"]


def test_a_change_of_a_tenant_leaves_the_rest_as_it_is(client):
    client.post("/admin/v1/tenants", json={"name": "Acme", "weight": 7})
    changed = client.patch("/admin/v1/tenants/acme", json={"service_class": "interactive", "name": None})
    assert changed.status_code == 200
    tenant = {"id": "acme", "name": "Acme", "service_class": "interactive", "weight": 7, "is_suspended": False}
    assert changed.json() == tenant
    assert client.patch("/admin/v1/tenants/acme", json={}).json() == tenant
    everything = {"name": "Acme GmbH", "service_class": "batch", "weight": 100, "is_suspended": True}
    assert client.patch("/admin/v1/tenants/acme", json=everything).json() == {"id": "acme", **everything}
    assert client.get("/admin/v1/tenants").json()["data"] == [{"id": "acme", **everything}]


def test_a_key_has_the_class_that_it_was_given(client, acme):
    made = client.post("/admin/v1/keys", json={"tenant": "acme", "service_class": "batch"})
    assert made.json()["service_class"] == "batch"
    assert client.post("/admin/v1/keys", json={"tenant": "acme"}).json()["service_class"] is None


def test_a_keys_secret_is_shown_once_and_its_digest_never(client, acme, directory):
    created = client.post("/admin/v1/keys", json={"tenant": "acme", "name": "bot"})
    assert created.status_code == 201
    secret = created.json().pop("key")
    assert directory.key(created.json()["id"]).digest == digest(secret)
    listed = client.get("/admin/v1/keys?tenant=acme")
    assert secret not in listed.text
    assert digest(secret) not in created.text + listed.text
    assert listed.json()["data"] == [{name: value for name, value in created.json().items() if name != "key"}]
    assert client.get("/admin/v1/keys?tenant=beta").json()["data"] == []


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/admin/v1/keys/{}"), ("POST", "/admin/v1/keys/{}/revoke")])
def test_a_key_is_revoked_either_way(client, acme, directory, method, path):
    identity = client.post("/admin/v1/keys", json={"tenant": "acme"}).json()["id"]
    assert client.request(method, path.format(identity)).json()["is_revoked"]
    assert directory.key(identity).is_revoked


def test_models_with_a_slash_in_their_name_are_declared_and_retired(client):
    body = {"name": "Qwen/Qwen3-0.6B", "pool": "small"}
    assert client.post("/admin/v1/models", json=body).json()["pool"] == "small"
    assert client.post("/admin/v1/models", json={"name": "plain"}).json()["pool"] == "plain"
    assert client.post("/admin/v1/models/Qwen/Qwen3-0.6B/retire").json()["is_retired"]
    assert client.delete("/admin/v1/models/plain").json()["is_retired"]
    assert [model["is_retired"] for model in client.get("/admin/v1/models").json()["data"]] == [True, True]


def test_workers_are_listed_without_the_secret_of_their_engine(client, roster):
    beat = Beat(
        worker="w1", pool="p", models=("m",), url="http://127.0.0.1:1", state=WorkerState.READY, engine_key="a-secret"
    )
    asyncio.run(roster.beat(beat))
    answer = client.get("/admin/v1/workers")
    (worker,) = answer.json()["data"]
    assert (worker["worker"], worker["state"], worker["models"]) == ("w1", "ready", ["m"])
    assert "a-secret" not in answer.text


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKEN}x"}])
@pytest.mark.parametrize("path", ["tenants", "keys", "models", "workers"])
def test_without_the_token_nothing_is_told(directory, roster, headers, path):
    client = TestClient(control_app(directory, roster, SecretStr(TOKEN)), headers=headers)
    answer = client.get(f"/admin/v1/{path}")
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("token", [None, SecretStr("")])
def test_a_gateway_without_a_token_is_closed(directory, roster, token):
    client = TestClient(control_app(directory, roster, token), headers={"Authorization": "Bearer "})
    answer = client.get("/admin/v1/tenants")
    assert answer.status_code == 401
    assert "SLUICE_ADMIN_TOKEN" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("POST", "keys", {"tenant": "ghost"}, 404, "not_found", None),
        ("POST", "keys", {}, 400, "invalid_request", "tenant"),
        ("POST", "keys", {"tenant": 7}, 400, "invalid_request", "tenant"),
        ("POST", "keys", {"tenant": "acme", "colour": "red"}, 400, "invalid_request", "colour"),
        ("POST", "keys", {"tenant": "acme", "expires_ms": 1}, 400, "invalid_request", None),
        ("POST", "tenants", {"name": "Acme"}, 409, "already_exists", None),
        ("POST", "tenants", {"name": "x" * 1000}, 400, "invalid_request", "name"),
        ("POST", "tenants", {"name": "X", "service_class": "gold"}, 400, "invalid_request", None),
        ("POST", "tenants", {"name": "X", "weight": 0}, 400, "invalid_request", None),
        ("POST", "tenants", {"name": "X", "weight": 1.5}, 400, "invalid_request", "weight"),
        ("PATCH", "tenants/acme", {"weight": 101}, 400, "invalid_request", None),
        ("PATCH", "tenants/acme", {"service_class": "gold"}, 400, "invalid_request", None),
        ("PATCH", "tenants/acme", {"id": "bolt"}, 400, "invalid_request", "id"),
        ("PATCH", "tenants/ghost", {"weight": 2}, 404, "not_found", None),
        ("POST", "keys", {"tenant": "acme", "service_class": "interactive"}, 400, "invalid_request", None),
        ("POST", "keys", {"tenant": "ghost", "service_class": "batch"}, 404, "not_found", None),
        ("POST", "tenants/ghost/suspend", None, 404, "not_found", None),
        ("DELETE", "keys/ghost", None, 404, "not_found", None),
        ("DELETE", "models/ghost", None, 404, "not_found", None),
        ("GET", "nothing", None, 404, "not_found", None),
        ("PUT", "tenants", None, 405, "method_not_allowed", None),
    ],
)
def test_every_error_is_in_openais_form(client, acme, method, path, body, status, code, param):
    answer = client.request(method, f"/admin/v1/{path}", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"].endswith(".")


def test_a_body_that_is_no_json_is_a_400(client):
    answer = client.post("/admin/v1/keys", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"


def test_a_database_that_is_away_is_a_503(roster):
    away = SqlDirectory(Database("postgresql://u:secret@127.0.0.1:1/x", timeout_s=1))
    client = TestClient(control_app(away, roster, SecretStr(TOKEN)), headers=BEARER)
    answer = client.get("/admin/v1/tenants")
    assert answer.status_code == 503
    assert "secret" not in answer.text
