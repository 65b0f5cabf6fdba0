"""What may be declared as a budget, what is shown of it, and what may be done with a balance."""

import pytest

from gateway.control import balances
from gateway.control.budgets import Terms, list_budgets, remove_budget, set_budget, to_json
from gateway.control.keys import create_key
from gateway.control.models import declare_model
from gateway.control.subjects import Who
from gateway.control.tenants import create_tenant
from gateway.control.webhook_address import AddressRules
from gateway.core.prices import PriceVersion, Tier, Unit
from gateway.errors import AlreadyExists, InvalidInput, NotFoundError
from gateway.stores.database import Database
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_balances import SqlBudgets
from tests.meter_events import event

NOW = 1_794_744_000_000  # 2026-11-15, noon UTC
SIGNED = AddressRules(has_secret=True)

NO_WEBHOOKS = AddressRules(has_secret=False)


@pytest.fixture
def database(directory, tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'sluice.db'}")
    yield database
    database.close()


@pytest.fixture
def ledger(database):
    return SqlBudgets(database)


@pytest.fixture
def declared(directory):
    create_tenant(directory, "acme")
    declare_model(directory, "qwen3", "chat", now_ms=NOW)
    create_key(directory, "acme", now_ms=NOW, project="web")


def price(number=1, **fields):
    tiers = (Tier(0, {Unit.INPUT: 1_000_000, Unit.OUTPUT: 2_000_000}),)
    return PriceVersion(**{"id": f"pri_{number}", "model": "qwen3", "from_ms": 0, "tiers": tiers, **fields})


def budget(directory, *, who=None, rules=NO_WEBHOOKS, now_ms=NOW, zone="UTC", **terms):
    names = Who(**(who or {"tenant": "acme"}))
    return set_budget(directory, names, Terms(**terms), rules, zone=zone, now_ms=now_ms)


def shown(directory, ledger, now_ms=NOW):
    return [to_json(state) for state in list_budgets(directory, ledger, None, now_ms)]


def test_a_budget_shows_what_is_spent_and_left_in_its_currency(directory, declared, ledger, database):
    directory.put_prices([price()])
    budget(directory, amount="0.000000100", is_hard=True)
    budget(directory, kind="tokens", amount="50", period="day")
    SqlJournal(database).append([event(1, arrived_ms=NOW, price="pri_1", cached_tokens=0, reasoning_tokens=0)])
    money, tokens = shown(directory, ledger)
    assert (money["amount"], money["spent"], money["left"]) == ("0.0000001", "0.00000005", "0.00000005")
    assert (tokens["amount"], tokens["spent"], tokens["left"], tokens["currency"]) == (50, 30, 20, None)
    assert money["is_live"]
    assert tokens["is_live"]
    assert tokens["ends_ms"] == NOW + 12 * 3_600_000


def test_changing_terms_keeps_since_when_it_counts_another_zone_begins_anew(directory, declared):
    first = budget(directory, amount="5")
    assert budget(directory, amount="7", now_ms=NOW + 5) == first.__class__(
        **{**{name: getattr(first, name) for name in first.__dataclass_fields__}, "amount": 7 * 10**9}
    )
    assert budget(directory, amount="7", zone="Asia/Shanghai", now_ms=NOW + 5).since_ms == NOW + 5


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"amount": "-5"}, r"amount '-5' cannot be: a budget is more than 0"),
        ({"amount": "0"}, r"amount '0' cannot be"),
        ({"amount": "99999999999"}, "too large"),
        ({"amount": "five"}, "amount 'five' is not a number"),
        ({"amount": "0.0000000001"}, "at most 9"),
        ({"amount": ""}, "amount '' is not a number"),
        ({"kind": "tokens", "amount": "1.5"}, "not a whole number of tokens"),
        ({"kind": "tokens", "amount": "9" * 20}, "at most 1000000000000000"),
        ({"amount": "5", "period": "week"}, "no period 'week'. Choose one of day, month, total"),
        ({"kind": "credits", "amount": "5"}, "no kind of budget 'credits'"),
        ({"amount": "5", "currency": "yuan"}, "'yuan' is not a currency's code"),
        ({"amount": "5", "alerts": "0"}, "alert '0' is not a percentage from 1 to 1000"),
        ({"amount": "5", "alerts": "80,1001"}, "alert '1001' is not"),
        ({"amount": "5", "alerts": "80,,90"}, "alert '' is not"),
        ({"amount": "5", "alerts": ",".join(map(str, range(1, 12)))}, "11 alerts are too many"),
        ({"amount": "5", "webhook": "https://example.com"}, "would never be told anything"),
        ({"kind": "prepaid", "amount": "5"}, "has no amount"),
    ],
)
def test_terms_that_cannot_be_are_refused_by_name_and_value(directory, declared, ledger, terms, message):
    with pytest.raises(InvalidInput, match=message):
        budget(directory, **terms)
    assert shown(directory, ledger) == []


@pytest.mark.parametrize(
    ("url", "rules", "message"),
    [
        ("https://127.0.0.1/hook", SIGNED, "not public"),
        ("https://[::ffff:10.0.0.1]/hook", SIGNED, "not public"),
        ("http://93.184.216.34/hook", SIGNED, "with https"),
        ("https://a:b@93.184.216.34/hook", SIGNED, "user name or a password"),
        ("ftp://93.184.216.34", SIGNED, "with https"),
        ("https://", SIGNED, "with https"),
        ("https://93.184.216.34:99999/", SIGNED, "is no URL"),
        ("https://93.184.216.34/hook", NO_WEBHOOKS, "SLUICE_JOBS__WEBHOOK_SECRET"),
    ],
)
def test_a_webhook_that_could_not_be_sent_is_refused(directory, declared, url, rules, message):
    with pytest.raises(InvalidInput, match=message):
        budget(directory, amount="5", alerts="80", webhook=url, rules=rules)


def test_a_public_webhook_is_taken_and_alerts_are_put_in_order(directory, declared):
    made = budget(directory, amount="5", alerts="100, 50,50", webhook="https://93.184.216.34/hook", rules=SIGNED)
    assert (made.alert_percents, made.webhook_url) == ("50,100", "https://93.184.216.34/hook")


def test_a_budget_in_another_currency_than_its_prices_is_refused(directory, declared):
    directory.put_prices([price(currency="USD")])
    with pytest.raises(InvalidInput, match=r"'CNY': price 'pri_1' of model 'qwen3', .* is in USD"):
        budget(directory, amount="5")
    budget(directory, amount="5", currency="USD")
    budget(directory, kind="tokens", amount="5")


def test_a_price_of_somebody_else_or_of_the_past_is_not_met(directory, declared):
    directory.put_prices([price(1, currency="USD", tenant="other"), price(2, currency="USD", to_ms=NOW)])
    budget(directory, amount="5")


def test_a_budget_says_when_nothing_it_binds_has_a_price_or_prices_changed_currency(directory, declared, ledger):
    budget(directory, amount="5")
    assert shown(directory, ledger)[0]["flaw"] == "nothing that it binds has a price"
    directory.put_prices([price()])
    assert shown(directory, ledger)[0]["is_live"]
    directory.put_prices([price(2, model="other", currency="USD")])
    assert shown(directory, ledger)[0]["flaw"] == "price 'pri_2' is in USD, not in CNY"


def test_a_budget_binds_somebody(directory, declared):
    with pytest.raises(NotFoundError, match="no tenant"):
        budget(directory, who={"tenant": "nobody"}, amount="5")
    with pytest.raises(InvalidInput, match="is nobody's"):
        budget(directory, who={"model": "qwen3"}, amount="5")
    with pytest.raises(InvalidInput, match="is a tenant's"):
        budget(directory, who={"tenant": "acme", "project": "web"}, kind="prepaid")
    with pytest.raises(NotFoundError, match="no budget 'bud_1'"):
        remove_budget(directory, "bud_1")


def test_a_balance_is_topped_up_once_per_reference_and_refunded_at_most_what_is_left(directory, declared, ledger):
    with pytest.raises(NotFoundError, match="sluice budgets set --tenant acme --prepaid"):
        balances.top_up(ledger, "acme", "500", now_ms=NOW)
    budget(directory, kind="prepaid", is_hard=True)
    for _ in range(2):
        balances.top_up(ledger, "acme", "500", now_ms=NOW, reference="invoice 1")
    with pytest.raises(AlreadyExists):
        balances.top_up(ledger, "acme", "5", now_ms=NOW, reference="invoice 1")
    with pytest.raises(InvalidInput, match=r"501\.00 CNY is more than the 500\.00 CNY"):
        balances.refund(ledger, "acme", "501", now_ms=NOW)
    balances.refund(ledger, "acme", "20.5", now_ms=NOW + 1)
    assert [row["balance"] for row in balances.balances(ledger, "acme")] == ["479.50"]
    assert [row["change"] for row in balances.history(ledger, "acme", 10)] == ["-20.50", "500.00"]
    assert shown(directory, ledger)[0]["left"] == "479.50"


@pytest.mark.parametrize(
    ("amount", "more", "message"),
    [
        ("0", {}, "'0' is not more than 0"),
        ("-1", {}, "'-1' is not more than 0"),
        ("1", {"currency": "USD"}, "is in CNY"),
        ("1", {"reference": "usage:x"}, "begins as those of usage"),
        ("1", {"reference": "x" * 201}, "at most 200"),
    ],
)
def test_money_that_cannot_be_taken_in_is_refused(directory, declared, ledger, amount, more, message):
    budget(directory, kind="prepaid")
    with pytest.raises(InvalidInput, match=message):
        balances.top_up(ledger, "acme", amount, now_ms=NOW, **more)


def test_a_balance_cannot_change_its_currency(directory, declared):
    budget(directory, kind="prepaid")
    with pytest.raises(InvalidInput, match="the balance is in CNY"):
        budget(directory, kind="prepaid", currency="USD")
