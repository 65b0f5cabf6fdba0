"""Budgets, prices, events and transfers for tests of the ledger."""

from datetime import datetime
from zoneinfo import ZoneInfo

from gateway.core.budgets import Budget
from gateway.core.money import NANO
from gateway.core.prices import PriceVersion, Tier, Unit
from gateway.core.rating import cost_nano, rate
from gateway.ports.budgets import Transfer, cash_account, prepaid_account
from tests.meter_events import event

HOUR_MS = 3_600_000
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/Havana", "Australia/Lord_Howe")
PRICES = (
    PriceVersion(id="pri_1", model="m1", from_ms=0, tiers=(Tier(0, {Unit.INPUT: 3_000, Unit.OUTPUT: 2_000_000}),)),
    PriceVersion(id="pri_2", model="m2", from_ms=0, tiers=(Tier(0, {Unit.OUTPUT: 7_001_000}),)),
    PriceVersion(id="pri_usd", model="m3", from_ms=0, currency="USD", tiers=(Tier(0, {Unit.OUTPUT: 9_000}),)),
)
BY_ID = {version.id: version for version in PRICES}


def ms(text: str, zone: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


NOON = ms("2026-11-15T12:00")


def money(number=1, **fields) -> Budget:
    plain = {"scope": "tenant", "subject": "acme", "tenant": "acme", "kind": "money", "period": "month"}
    return Budget(**{"id": f"bud_{number}", "amount": 10 * NANO, "since_ms": NOON, **plain, **fields})


def prepaid(**fields) -> Budget:
    return money(**{"number": "pre", "kind": "prepaid", "period": "total", "amount": 0, **fields})


def used(number, arrived_ms=NOON, **fields):
    return event(number, **{"price": "pri_1", "model": "m1", "arrived_ms": arrived_ms, **fields})


def cost(*events) -> int:
    return sum(cost_nano(rate(each, BY_ID[each.price])) for each in events)


def paid(amount_nano, reference, *, tenant="acme", out=False) -> Transfer:
    accounts = (cash_account(tenant), prepaid_account(tenant))
    debit, credit = reversed(accounts) if out else accounts
    fields = {"amount_nano": amount_nano, "currency": "CNY", "reason": "topup", "reference": reference}
    return Transfer(id=f"tra_{reference}", at_ms=NOON, debit=debit, credit=credit, **fields)
