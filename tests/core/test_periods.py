"""Periods of budgets, and which limits and budgets bind a request."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.binding import Bindings, project_subject
from gateway.core.budgets import Budget
from gateway.core.limits import Limit
from gateway.core.periods import FOR_EVER, Calendar, account, calendar
from gateway.core.zones import local_time

HOUR_MS = 3_600_000
ZONES = sorted(available_timezones() & {"UTC", "Asia/Shanghai", "Europe/Berlin", "America/Havana", "Asia/Kolkata"})
ODD_ZONES = [*ZONES, "America/St_Johns", "Pacific/Apia", "America/Sao_Paulo", "Australia/Lord_Howe"]


def at(text: str, zone: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@given(
    zone=st.sampled_from(ODD_ZONES),
    period=st.sampled_from(["day", "month"]),
    at_ms=st.integers(0, 2_500_000_000_000),
    later_ms=st.integers(0, 90 * 24 * HOUR_MS),
)
@settings(max_examples=300)
def test_periods_hold_their_instants_and_leave_no_gap(zone, period, at_ms, later_ms):
    days = Calendar(ZoneInfo(zone))
    span = days.span(period, at_ms)
    assert at_ms in span
    assert Calendar(ZoneInfo(zone)).span(period, span.from_ms) == span
    assert Calendar(ZoneInfo(zone)).span(period, span.to_ms - 1) == span
    assert Calendar(ZoneInfo(zone)).span(period, span.to_ms).from_ms == span.to_ms
    assert days.span(period, at_ms + later_ms) == Calendar(ZoneInfo(zone)).span(period, at_ms + later_ms)


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)], ids=["spring", "autumn", "plain"]
)
def test_a_day_on_which_clocks_change_is_as_long_as_it_is(day, hours):
    span = calendar("Europe/Berlin").span("day", at(f"{day}T12:00", "Europe/Berlin"))
    assert span.to_ms - span.from_ms == hours * HOUR_MS
    assert local_time(span.from_ms, ZoneInfo("Europe/Berlin")).isoformat().startswith(f"{day}T00:00")


def test_a_month_begins_at_the_midnight_of_its_zone():
    span = calendar("Asia/Shanghai").span("month", at("2026-11-30T23:59:59", "Asia/Shanghai"))
    assert span.from_ms == at("2026-11-01T00:00", "Asia/Shanghai")
    assert span.to_ms == at("2026-12-01T00:00", "Asia/Shanghai")
    assert span.to_ms - span.from_ms == timedelta(days=30) // timedelta(milliseconds=1)


def test_for_ever_is_one_period():
    assert calendar("UTC").span("total", 1) == calendar("Asia/Shanghai").span("total", 1 << 50) == FOR_EVER
    assert account("bud_1", FOR_EVER.from_ms) == "bud_1@0"


def test_rules_bind_by_whose_the_request_is_and_for_which_model():
    def limit(number, scope, subject, **more):
        return Limit(id=str(number), scope=scope, subject=subject, metric="requests", amount=1, **more)

    rules = [
        limit(1, "tenant", "acme"),
        limit(2, "project", "acme/web"),
        limit(3, "key", "key_1", model="big"),
        limit(4, "model", "big"),
        limit(5, "project", "other/web"),
        limit(6, "tenant", "acme", is_removed=True),
    ]
    bound = Bindings.of(rules)
    assert {rule.id for rule in bound.bind("acme", "web", "key_1", "big")} == {"1", "2", "3", "4"}
    assert {rule.id for rule in bound.bind("acme", "web", "key_1", "small")} == {"1", "2"}
    assert not list(bound.bind("nobody", "web", "key_2", "small"))
    assert not Bindings[Budget].of([])
    assert project_subject("acme", "web") == "acme/web"
