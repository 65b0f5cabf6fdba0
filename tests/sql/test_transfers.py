"""Transfers, prepaid balances and alerts, on every database."""

from dataclasses import replace

import pytest

from gateway.core.money import NANO
from gateway.errors import AlreadyExists, InvalidInput, NotFoundError, StoreUnavailable
from gateway.ports.budgets import REVENUE, Alert, prepaid_account
from gateway.stores.schema import transfers
from gateway.stores.sql_alerts import TAKEN_MS, SqlAlerts
from tests.sql.budgeting import NOON, cost, paid, prepaid, used


def test_a_batch_of_a_prepaid_tenant_is_one_transfer(store, journal, directory):
    directory.put_budget(prepaid())
    store.transfer(paid(NANO, "invoice 1"))
    journal.append([used(1), used(2)])
    last, first = store.transfers(prepaid_account("acme"), 10)
    assert (last.debit, last.credit, last.reason) == (prepaid_account("acme"), REVENUE, "usage")
    assert last.amount_nano == cost(used(1), used(2))
    assert first.reference == "invoice 1"
    left = NANO - last.amount_nano
    assert ("prepaid:acme", "CNY", left) in store.balances()
    assert store.counters()[0].spent == -left
    assert store.counters()[0].filled == NANO


def test_a_prepaid_balance_pays_for_what_arrived_since_it_was_declared(store, journal, directory):
    journal.append([used(1, NOON - 1), used(2, NOON)])
    directory.put_budget(prepaid())
    journal.append([used(3, NOON - 1)])
    assert {name: total for name, _, total in store.balances()}[REVENUE] == cost(used(2))
    assert store.prove() == []


def test_the_second_life_of_a_prepaid_balance_does_not_charge_for_the_time_between(store, journal, directory):
    directory.put_budget(prepaid())
    journal.append([used(1, NOON + 1)])
    directory.put_budget(prepaid(is_removed=True))
    journal.append([used(2, NOON + 2)])
    directory.put_budget(prepaid(since_ms=NOON + 3))
    journal.append([used(3, NOON + 4)])
    assert store.counters()[0].spent == cost(used(1), used(3))
    assert store.prove() == []


def test_a_reference_moves_money_once(store, directory):
    directory.put_budget(prepaid())
    first = store.transfer(paid(NANO, "invoice 1"))
    assert store.transfer(replace(paid(NANO, "invoice 1"), id="tra_2", at_ms=NOON + 1)) == first
    assert store.counters()[0].spent == -NANO
    with pytest.raises(AlreadyExists, match="'invoice 1' is that of another transfer"):
        store.transfer(paid(2 * NANO, "invoice 1"))
    assert store.counters()[0].spent == -NANO


def test_more_than_there_is_cannot_be_taken_out(store, directory):
    directory.put_budget(prepaid())
    store.transfer(paid(NANO, "in"))
    with pytest.raises(InvalidInput, match=r"2\.00 CNY is more than the 1\.00 CNY"):
        store.transfer(paid(2 * NANO, "out", out=True))
    assert store.counters()[0].spent == -NANO
    store.transfer(paid(NANO, "out", out=True))
    assert store.counters()[0].spent == 0
    assert sum(total for *_, total in store.balances()) == 0


def test_money_needs_a_declared_balance_of_its_currency(store, directory):
    with pytest.raises(NotFoundError, match="no prepaid balance"):
        store.transfer(paid(NANO, "in"))
    directory.put_budget(prepaid(currency="USD"))
    with pytest.raises(InvalidInput, match="in USD"):
        store.transfer(paid(NANO, "in"))


def test_a_transfer_of_nothing_or_less_cannot_be_written(database):
    for amount in (0, -1):
        with pytest.raises(StoreUnavailable), database.writing() as connection:
            connection.execute(transfers.insert(), {**_row(paid(1, "r")), "amount_nano": amount})


def _row(transfer):
    return {name: getattr(transfer, name) for name in transfer.__dataclass_fields__}


def test_an_alert_is_noted_once_and_told_by_one(database):
    alerts = SqlAlerts(database)
    alert = Alert(budget="b", period_ms=0, percent=80, spent=8, amount=10, noted_ms=NOON)
    assert alerts.note([alert], NOON) == [alert]
    assert alerts.note([alert, replace(alert, percent=100)], NOON) == [replace(alert, percent=100)]
    taken = alerts.take_due(NOON, 1)
    assert [each.attempts for each in taken] == [1]
    assert len(alerts.take_due(NOON, 10)) == 1
    assert alerts.take_due(NOON, 10) == []
    assert len(alerts.take_due(NOON + TAKEN_MS, 10)) == 2
    alerts.settle(taken[0], NOON, 100.0)
    assert taken[0].percent in [each.percent for each in alerts.take_due(NOON + 100_000, 2)]
    for each in (alert, replace(alert, percent=100)):
        alerts.settle(each, NOON, None)
    assert alerts.take_due(NOON + 10 * TAKEN_MS, 10) == []


def test_an_alert_that_nobody_is_to_be_told_is_never_due(database):
    alert = Alert(budget="b", period_ms=0, percent=80, spent=8, amount=10, noted_ms=NOON)
    assert SqlAlerts(database).note([alert], None) == [alert]
    assert SqlAlerts(database).take_due(NOON + TAKEN_MS, 10) == []
