"""No price in another currency than the budgets and balances that it is counted against, on every database."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from gateway.control import balances
from gateway.control.api import control_app
from gateway.control.budgets import Terms, list_budgets, remove_budget, set_budget
from gateway.control.models import declare_model
from gateway.control.money_api import MoneyDesk
from gateway.control.prices import Permits, plan_import, plan_withdrawal
from gateway.control.subjects import Who
from gateway.control.tenants import create_tenant
from gateway.control.webhook_address import AddressRules
from gateway.core.holds import Standings
from gateway.errors import InvalidInput
from gateway.stores.database import Database
from gateway.stores.memory_roster import MemoryRoster
from gateway.stores.schema import migrate
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from tests.control.price_texts import NOW_MS, SHANGHAI, at, entry, price_file, read, take_in

RULES = AddressRules(has_secret=False)
USD = {"currency": "USD"}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request, tmp_path):
    """A database with a model and the tenants acme and bolt in it."""
    is_postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if is_postgres else f"sqlite:///{tmp_path / 'sluice.db'}"
    migrate(url)
    database = Database(url)
    declare_model(SqlDirectory(database), "qwen3", "chat", now_ms=1)
    for name in ("acme", "bolt"):
        create_tenant(SqlDirectory(database), name)
    yield database
    database.close()


@pytest.fixture
def store(database):
    return SqlDirectory(database)


@pytest.fixture
def ledger(database):
    return SqlBudgets(database)


@pytest.fixture
def client(store, ledger):
    async def nothing_holds(tenant: str) -> Standings:
        return Standings()

    desk = MoneyDesk(store, ledger, RULES, "UTC", lambda: NOW_MS, nothing_holds)
    token = SecretStr("an-admin-token")
    app = control_app(store, MemoryRoster(lease_s=60), token, now_ms=lambda: NOW_MS, money=desk)
    with TestClient(app, headers={"Authorization": "Bearer an-admin-token"}) as client:
        yield client


def plan(store, ledger, *entries):
    return plan_import(store, read(*entries), now_ms=NOW_MS, permits=Permits(), zone=SHANGHAI, ledger=ledger)


def budget(store, ledger, tenant="acme", **terms):
    who = Who(tenant=tenant)
    return set_budget(store, who, Terms(**terms), RULES, zone="UTC", now_ms=NOW_MS, ledger=ledger)


def leave_a_balance(store, ledger):
    """Have acme pay 100 CNY in, and its prepaid budget removed; the balance stays."""
    made = budget(store, ledger, kind="prepaid")
    balances.top_up(ledger, "acme", "100", now_ms=NOW_MS)
    remove_budget(store, made.id)


@pytest.mark.parametrize("verb", ["import", "diff"])
def test_over_http_the_refusal_names_the_field_both_currencies_the_budgets_and_what_to_do(client, store, ledger, verb):
    made = [budget(store, ledger, tenant, amount="5", period=period).id
            for tenant in ("acme", "bolt") for period in ("day", "month")]  # fmt: skip
    refused = client.post(
        f"/admin/v1/prices/{verb}", content=price_file(entry(**USD)), headers={"Content-Type": "application/yaml"}
    )
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_request")
    message = error["message"]
    assert message.startswith("body, entry 1 (qwen3): currency 'USD' differs from that of budget bud_")
    assert message.count(", CNY") == 3
    assert sum(each in message for each in made) == 3
    assert "; and 1 more. Price qwen3 in CNY, or give that tenant its own price" in message
    assert not store.prices()


def test_a_balance_that_is_left_when_its_budget_is_gone_still_counts_in_its_currency(store, ledger):
    leave_a_balance(store, ledger)
    said = r"currency 'USD' differs from that of the balance of 100\.00 of tenant 'acme', CNY\. "
    with pytest.raises(InvalidInput, match=said):
        plan(store, ledger, entry(**USD))
    assert plan(store, ledger, entry()).counts()["new"] == 1
    budget(store, ledger, kind="prepaid")
    balances.refund(ledger, "acme", "100", now_ms=NOW_MS)
    remove_budget(store, next(each.id for each in store.budgets()))
    assert plan(store, ledger, entry(**USD)).counts()["new"] == 1


def test_a_balance_in_one_currency_is_not_taken_up_in_another(store, ledger):
    """Else 100 CNY would be 100 USD."""
    leave_a_balance(store, ledger)
    with pytest.raises(InvalidInput, match=r"'USD': the balance of 100\.00 of tenant 'acme' is in CNY\. Declare it in"):
        budget(store, ledger, kind="prepaid", **USD)
    budget(store, ledger, "bolt", kind="prepaid", **USD)
    budget(store, ledger, kind="prepaid")


def test_a_tenants_own_price_covers_no_longer_than_it_lasts(store, ledger):
    budget(store, ledger, amount="5", **USD)
    own = entry("2027-01-01", tenant="acme", to="2027-02-01", **USD)
    with pytest.raises(InvalidInput, match=r"entry 2 \(qwen3\): currency 'CNY' .* USD\. .* for all that time"):
        plan(store, ledger, own, entry("2027-01-01"))
    with pytest.raises(InvalidInput, match="entry 2"):
        plan(store, ledger, own, entry("2026-12-01", to="2027-01-15"))
    assert plan(store, ledger, own, entry("2027-01-01", to="2027-02-01")).counts()["new"] == 2


def test_a_budget_in_the_currency_of_a_tenants_own_prices_is_declared_and_live(store, ledger):
    take_in(store, entry(), entry(tenant="acme", **USD))
    budget(store, ledger, amount="5", **USD)
    [state] = list_budgets(store, ledger, "acme", NOW_MS)
    assert state.flaw == ""
    with pytest.raises(InvalidInput, match="currency 'CNY'"):
        budget(store, ledger, amount="5", currency="CNY")


def test_own_prices_that_follow_one_another_cover_together(store, ledger):
    budget(store, ledger, amount="5", **USD)
    own = [entry("2027-01-01", tenant="acme", **USD), entry("2027-02-01", tenant="acme", input="9", **USD)]
    assert plan(store, ledger, *own, entry("2027-01-15")).counts()["new"] == 3


def test_an_own_price_of_a_pool_covers_that_pool_alone(store, ledger):
    budget(store, ledger, amount="5", **USD)
    own = entry(tenant="acme", pool="chat", **USD)
    assert plan(store, ledger, own, entry(pool="chat")).counts()["new"] == 2
    with pytest.raises(InvalidInput, match="entry 2"):
        plan(store, ledger, own, entry())


def test_withdrawing_the_price_that_covers_another_is_refused(store, ledger):
    budget(store, ledger, amount="5", **USD)
    done = take_in(store, entry("2027-01-01"), entry("2027-01-01", tenant="acme", **USD))
    own = next(each for each in done.news if each.tenant)
    with pytest.raises(InvalidInput, match="of model 'qwen3', which it would uncover: currency 'CNY' differs"):
        plan_withdrawal(store, own.id, now_ms=NOW_MS, zone=SHANGHAI, ledger=ledger)
    general = next(each for each in done.news if not each.tenant)
    assert plan_withdrawal(store, general.id, now_ms=NOW_MS, zone=SHANGHAI, ledger=ledger).counts()["withdrawn"] == 1


def test_a_clash_that_was_there_before_stands_in_the_way_of_no_other_price(store, ledger):
    take_in(store, entry("2026-12-01"))
    store.put_budget(replace(budget(store, ledger, amount="5"), currency="USD"))
    declare_model(store, "other", "chat", now_ms=1)
    assert plan(store, ledger, entry(model="other", **USD)).counts()["new"] == 1
    with pytest.raises(InvalidInput, match="entry 1"):
        plan(store, ledger, entry("2027-01-01", input="9"))


def test_quotas_of_tokens_and_prices_of_the_past_are_in_nobodys_way(store, ledger):
    take_in(store, entry("2026-01-01", to="2026-02-01"), now_ms=at("2025-12-01"))
    budget(store, ledger, kind="tokens", amount="5")
    budget(store, ledger, amount="5", **USD)
    assert plan(store, ledger, entry(**USD, model="qwen3", pool="chat")).counts()["new"] == 1
