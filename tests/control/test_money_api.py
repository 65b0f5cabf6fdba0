"""Limits, budgets and balances over HTTP, and as a shell runs them."""

import json

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import update
from typer.testing import CliRunner

from gateway.cli import app
from gateway.control.api import control_app
from gateway.control.money_api import MoneyDesk
from gateway.control.tenants import create_tenant
from gateway.control.webhook_address import AddressRules
from gateway.core.holds import Standings
from gateway.errors import SluiceError
from gateway.stores.database import Database
from gateway.stores.memory_roster import MemoryRoster
from gateway.stores.schema import budget_counters
from gateway.stores.sql_balances import SqlBudgets

BEARER = {"Authorization": "Bearer an-admin-token"}


@pytest.fixture
def database(directory, tmp_path):
    create_tenant(directory, "acme")
    database = Database(f"sqlite:///{tmp_path / 'sluice.db'}")
    yield database
    database.close()


async def nothing_holds(tenant: str) -> Standings:
    return Standings()


@pytest.fixture
def client(directory, database):
    roster, token = MemoryRoster(lease_s=60), SecretStr("an-admin-token")
    desk = MoneyDesk(
        directory, SqlBudgets(database), AddressRules(has_secret=False), "UTC", lambda: 1000, nothing_holds
    )
    control = control_app(directory, roster, token, now_ms=lambda: 1000, money=desk)
    with TestClient(control, headers=BEARER) as client:
        yield client


@pytest.fixture
def sluice(tmp_path, database, monkeypatch):
    """Run a verb; gives its exit status and what it printed as JSON."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str):
        url = f"sqlite:///{tmp_path / 'sluice.db'}"
        done = CliRunner().invoke(app, [*words, "--database-url", url, "--format", "json"])
        if isinstance(done.exception, SluiceError):
            raise done.exception
        return done.exit_code, json.loads(done.output)

    return run


def test_a_limit_is_declared_listed_and_removed(client):
    made = client.post("/admin/v1/limits", json={"tenant": "acme", "metric": "requests", "amount": 60})
    assert made.status_code == 201
    (listed,) = client.get("/admin/v1/limits?tenant=acme").json()["data"]
    assert listed.items() >= made.json().items()
    assert (listed["used"], listed["why_unknown"]) == (None, "the gateway has not heard of this limit yet")
    assert client.delete(f"/admin/v1/limits/{made.json()['id']}").json()["is_removed"]
    assert client.get("/admin/v1/limits").json()["data"] == []


def test_a_budget_is_declared_listed_and_removed(client):
    body = {"tenant": "acme", "amount": "500", "period": "day", "is_hard": True, "alerts": "80,100"}
    made = client.post("/admin/v1/budgets", json=body)
    assert made.status_code == 201
    assert (made.json()["left"], made.json()["is_live"]) == ("500.00", False)
    assert client.get("/admin/v1/budgets").json()["data"] == [made.json()]
    assert client.delete(f"/admin/v1/budgets/{made.json()['id']}").json()["is_removed"]


def test_a_balance_is_topped_up_shown_and_refunded(client):
    client.post("/admin/v1/budgets", json={"tenant": "acme", "kind": "prepaid"})
    for _ in range(2):
        done = client.post("/admin/v1/balances/acme/topup", json={"amount": "500", "reference": "invoice 1"})
        assert done.status_code == 201
    assert client.post("/admin/v1/balances/acme/refund", json={"amount": "100"}).json()["change"] == "-100.00"
    assert [row["balance"] for row in client.get("/admin/v1/balances").json()["data"]] == ["400.00"]
    assert len(client.get("/admin/v1/balances/acme/history").json()["data"]) == 2
    clash = client.post("/admin/v1/balances/acme/topup", json={"amount": "1", "reference": "invoice 1"})
    assert (clash.status_code, clash.json()["error"]["code"]) == (409, "already_exists")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("limits", {"tenant": "nobody", "metric": "requests", "amount": 1}, 404),
        ("limits", {"tenant": "acme", "metric": "requests", "amount": 0}, 400),
        ("limits", {"tenant": "acme", "metric": "requests", "amount": 1, "per": "hour"}, 400),
        ("budgets", {"tenant": "acme", "amount": "-1"}, 400),
        ("balances/acme/topup", {"amount": "1"}, 404),
    ],
)
def test_what_cannot_be_is_answered_in_openais_form(client, path, body, status):
    refused = client.post(f"/admin/v1/{path}", json=body)
    assert refused.status_code == status
    assert refused.json()["error"]["message"]


def test_the_verbs_declare_list_and_remove(sluice):
    assert sluice("limits", "set", "--tenant", "acme", "--requests", "60", "--concurrent", "5")[0] == 0
    limits = sluice("limits", "list")[1]
    assert [(each["metric"], each["amount"]) for each in limits] == [("concurrent", 5), ("requests", 60)]
    sluice("limits", "remove", limits[0]["id"])
    assert len(sluice("limits", "list", "--tenant", "acme")[1]) == 1
    made = sluice("budgets", "set", "--tenant", "acme", "--money", "5", "--hard")[1]
    assert sluice("budgets", "list")[1] == [made]
    sluice("budgets", "remove", made["id"])
    assert sluice("budgets", "list")[1] == []


def test_the_verbs_move_money(sluice):
    sluice("budgets", "set", "--tenant", "acme", "--prepaid", "--hard")
    sluice("balance", "topup", "acme", "500", "--reference", "invoice 1")
    sluice("balance", "refund", "acme", "0.5")
    assert sluice("balance", "show", "acme")[1][0]["balance"] == "499.50"
    assert len(sluice("balance", "history", "acme")[1]) == 2
    with pytest.raises(SluiceError, match="no tenant 'nobody'"):
        sluice("balance", "show", "nobody")


def test_nothing_to_declare_is_an_error(sluice):
    with pytest.raises(SluiceError, match="nothing to limit"):
        sluice("limits", "set", "--tenant", "acme")
    for kinds in ([], ["--money", "1", "--tokens", "1"], ["--prepaid", "--money", "1"]):
        with pytest.raises(SluiceError, match="of one kind"):
            sluice("budgets", "set", "--tenant", "acme", *kinds)


def test_rebuilding_fails_if_anything_differs_and_repairs_it_when_told(sluice, database):
    sluice("budgets", "set", "--tenant", "acme", "--money", "5")
    assert sluice("budgets", "rebuild") == (0, {"differences": [], "is_fixed": False})
    with database.writing() as connection:
        connection.execute(update(budget_counters).values(spent=7))
    for words in (["rebuild"], ["rebuild", "--fix"]):
        status, printed = sluice("budgets", *words)
        assert status == 1
        assert [(each["found"], each["expected"]) for each in printed["differences"]] == [(7, 0)]
    assert sluice("budgets", "rebuild")[0] == 0
