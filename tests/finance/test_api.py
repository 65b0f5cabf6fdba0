"""/finance/v1 over HTTP."""

import csv
import io

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from gateway.finance.api import finance_app
from gateway.stores.database import Database
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_work import SqlWork
from tests.finance.test_reconcile import reading, served
from tests.meter_events import event
from tests.prices import OLD

TOKEN = "an-admin-token"


@pytest.fixture
def client(journal):
    app = finance_app(
        journal, SqlWork(journal._database), SecretStr(TOKEN), zone="Asia/Kolkata", now_ms=lambda: 1_700_000_100_000
    )
    with TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def test_usage_is_answered_as_json(client, journal):
    journal.append([event(1), event(2, tenant="beta")])
    answer = client.get("/finance/v1/usage", params={"from": "2023-11-01", "to": "2023-12-01", "group_by": "tenant"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["from"], body["zone"]) == ("2023-11-01T00:00:00+05:30", "Asia/Kolkata")
    assert [row["tenant"] for row in body["rows"]] == ["acme", "beta"]
    assert body["totals"]["total_tokens"] == 60


def test_usage_is_answered_as_csv(client, journal):
    journal.append([event(1)])
    answer = client.get("/finance/v1/usage?from=2023-11-01&to=2023-12-01&format=csv&group_by=day&zone=UTC")
    assert answer.headers["content-type"].startswith("text/csv")
    assert next(csv.DictReader(io.StringIO(answer.text)))["day"] == "2023-11-14"


def test_lines_are_answered_as_csv(client, journal):
    journal.append([event(1, price=OLD.id)])
    answer = client.get("/finance/v1/usage?from=2023-11-01&to=2023-12-01&format=csv&lines=true")
    units = [row["unit"] for row in csv.DictReader(io.StringIO(answer.text))]
    assert units == ["input", "cached_input", "output", "reasoning"]
    answer = client.get("/finance/v1/usage?from=2023-11-01&to=2023-12-01").json()
    assert [line["unit"] for line in answer["lines"]] == units
    assert answer["amounts"] == [{"amount": "0.00001404", "amount_nano": 14040, "currency": "CNY"}]


def test_an_interval_left_out_is_this_month_so_far(client, journal):
    journal.append([event(1)])
    assert client.get("/finance/v1/usage").json()["totals"]["requests"] == 1


def test_reconciliation_is_answered(client, journal):
    journal.append([served(1, 2000)])
    journal.append_readings([reading(4000, 10, 25)])
    body = client.get("/finance/v1/reconcile?from=1970-01-01&to=1970-01-02&zone=UTC").json()
    assert body["lines"][0]["residue_completion_tokens"] == 5
    assert body["totals"]["residue_completion_tokens"] == 5


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("zone=Mars", "Mars"),
        ("group_by=colour", "colour"),
        ("tenant=nobody", "nobody"),
        ("from=soon", "from 'soon'"),
        ("format=xml", "format"),
    ],
)
@pytest.mark.parametrize("journal", ["sqlite"], indirect=True)
def test_a_wrong_question_is_a_400_in_openais_form(client, query, words):
    answer = client.get(f"/finance/v1/usage?{query}")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]


@pytest.mark.parametrize("journal", ["sqlite"], indirect=True)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
def test_without_the_token_nothing_is_told(journal, headers):
    client = TestClient(finance_app(journal, SqlWork(journal._database), SecretStr(TOKEN)), headers=headers)
    answer = client.get("/finance/v1/usage")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert TOKEN not in answer.text


def test_a_database_that_is_away_is_a_503():
    away = Database("postgresql://u:secret@127.0.0.1:1/x", timeout_s=1)
    client = TestClient(
        finance_app(SqlJournal(away), SqlWork(away), SecretStr(TOKEN)), headers={"Authorization": f"Bearer {TOKEN}"}
    )
    answer = client.get("/finance/v1/usage")
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "service_unavailable_error"
    assert "secret" not in answer.text
