"""/admin/v1/prices over HTTP."""

import json

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from gateway.control.api import control_app
from gateway.control.models import declare_model
from gateway.control.price_files import FILE_BYTES_MAX
from gateway.core.prices import PriceBook
from gateway.stores.memory_roster import MemoryRoster
from tests.control.price_texts import NOW_MS, at, entry, price_file, take_in

BEARER = {"Authorization": "Bearer an-admin-token"}
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture
def client(directory):
    declare_model(directory, "qwen3", "chat", now_ms=1)
    roster = MemoryRoster(lease_s=60)
    token = SecretStr("an-admin-token")
    app = control_app(directory, roster, token, now_ms=lambda: NOW_MS, zone="Asia/Shanghai")
    with TestClient(app, headers=BEARER) as client:
        yield client


def test_a_diff_says_what_an_import_does_and_does_nothing(client, directory):
    content = price_file(entry("2027-01-01"))
    seen = client.post("/admin/v1/prices/diff", content=content, headers=YAML)
    assert seen.status_code == 200
    assert not directory.prices()
    done = client.post("/admin/v1/prices/import", content=content, headers=YAML)
    assert done.json()["counts"] == seen.json()["counts"]
    (change,) = done.json()["changes"]
    assert change == seen.json()["changes"][0] | {"id": change["id"]}
    assert [each.id for each in directory.prices()] == [change["id"]]


def test_a_program_sends_json_and_no_number_becomes_a_float(client, directory):
    body = {"prices": [{"model": "qwen3", "from": "2027-01-01", "input": 0.1, "output": "0.000001"}]}
    done = client.post("/admin/v1/prices/import", json=body).json()
    assert done["changes"] == [
        {
            "change": "new",
            "id": directory.prices()[0].id,
            "model": "qwen3",
            "pool": "",
            "tenant": "",
            "state": "ahead",
            "from": "2027-01-01",
            "from_ms": at("2027-01-01"),
            "to": None,
            "to_ms": None,
            "currency": "CNY",
            "batch_factor": "1",
            "tiers": [{"from_tokens": 0, "input": "0.1", "output": "0.000001"}],
        }
    ]


def test_a_sheet_is_taken_in_and_given_back(client, directory):
    sheet = b"model,from,input,output\nqwen3,2027-01-01,1,2\n"
    assert client.post("/admin/v1/prices/import", content=sheet, headers={"Content-Type": "text/csv"}).is_success
    for form in ("csv", "yaml", "json"):
        given = client.get(f"/admin/v1/prices/export?format={form}")
        again = client.post("/admin/v1/prices/import", content=given.content, headers=dict(given.headers))
        assert again.json()["counts"]["unchanged"] == 1
    assert len(directory.prices()) == 1


def test_prices_in_force_and_ahead_are_listed_and_all_in_the_history(client, directory):
    take_in(directory, entry("2026-01-01"), backdate=True, now_ms=at("2026-06-01"))
    take_in(directory, entry("2026-10-01"), now_ms=at("2026-09-01"))
    ahead = take_in(directory, entry("2027-01-01")).news[0].id
    assert [each["state"] for each in client.get("/admin/v1/prices").json()["data"]] == ["in_force", "ahead"]
    withdrawn = client.delete(f"/admin/v1/prices/{ahead}").json()
    assert [each["change"] for each in withdrawn["changes"]] == ["prolonged", "withdrawn"]
    history = client.get("/admin/v1/prices/history?model=qwen3&zone=UTC").json()["data"]
    assert [each["state"] for each in history] == ["past", "in_force", "withdrawn"]
    assert history[0]["from"] == "2025-12-31T16:00:00+00:00"
    assert client.get("/admin/v1/prices/history?tenant=acme").json()["data"] == []
    assert PriceBook.of(directory.prices()).find("acme", "qwen3", "chat", at("2028-01-01")).to_ms is None


@pytest.mark.parametrize(
    ("path", "content", "kind", "status", "reason"),
    [
        ("import", price_file(entry(input="-1")), "application/yaml", 400, "body, entry 1 (qwen3): input '-1'"),
        ("import", price_file(entry("2020-01-01")), "application/yaml", 400, "--backdate"),
        ("import?backdate=soon", b"", "text/csv", 400, "backdate"),
        ("diff", price_file(entry(model="x")), "text/yaml", 400, "model 'x' does not exist"),
        ("diff?zone=Mars", price_file(entry()), "text/yaml", 400, "There is no time zone 'Mars'"),
        ("diff", b"{", "application/json", 400, "body is not JSON"),
        ("diff", b"x", "text/html", 400, "The content type 'text/html' is no price file's"),
        ("diff", b"x" * (FILE_BYTES_MAX + 1), "text/csv", 400, "The most is 1048576 bytes"),
        ("ghost/withdraw", b"", "text/csv", 404, "no price version 'ghost'"),
    ],
)
def test_what_is_wrong_is_named_in_openais_form(client, path, content, kind, status, reason):
    answer = client.post(f"/admin/v1/prices/{path}", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert reason in json.dumps(answer.json()["error"]["message"])


def test_permits_are_parameters_of_the_query(client):
    content = price_file(entry("2020-01-01", model="x", to="2020-02-01"), entry("2020-03-01", model="x"))
    query = "backdate=true&allow_gaps=true&allow_unknown_models=true"
    done = client.post(f"/admin/v1/prices/import?{query}", content=content, headers=YAML)
    assert done.json()["counts"]["new"] == 2


@pytest.mark.parametrize("path", ["prices", "prices/history", "prices/export"])
def test_without_the_token_nothing_is_told(client, path):
    assert client.get(f"/admin/v1/{path}", headers={"Authorization": "Bearer wrong"}).status_code == 401
