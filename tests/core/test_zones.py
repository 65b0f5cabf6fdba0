"""Instants and days where clocks do odd things."""

from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.zones import days, first_moment, load_zone, local_time, parse_instant, parse_interval
from gateway.errors import InvalidInput

ZONES = ["UTC", "Asia/Shanghai", "Asia/Kolkata", "Asia/Kathmandu", "Europe/Berlin", "America/Sao_Paulo", "Asia/Beirut"]
ZONES += ["Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns", "Africa/Cairo"]


def utc(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "zone", "instant"),
    [
        ("2026-11-01", "UTC", "2026-11-01T00:00"),
        ("2026-11-01", "Asia/Shanghai", "2026-10-31T16:00"),
        ("2026-11-01", "Asia/Kolkata", "2026-10-31T18:30"),
        ("2026-11-01", "Asia/Kathmandu", "2026-10-31T18:15"),
        ("2026-11-01T09:30", "Asia/Shanghai", "2026-11-01T01:30"),
        ("2026-11-01T09:30:00.250", "UTC", "2026-11-01T09:30:00.250"),
        ("2026-11-01T09:30+02:00", "Asia/Shanghai", "2026-11-01T07:30"),
        ("2026-11-01T09:30Z", "Asia/Shanghai", "2026-11-01T09:30"),
        ("2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30"),  # shown twice: the first is meant
        ("2018-11-04", "America/Sao_Paulo", "2018-11-04T03:00"),  # clocks skip midnight: the day begins at one
    ],
)
def test_what_people_write_is_this_instant(text, zone, instant):
    assert parse_instant(text, ZoneInfo(zone), "from") == utc(instant)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-11-31", "01.11.2026", "2026-11-01T25:00", "1e9"])
def test_what_is_no_date_is_refused_by_name(text):
    with pytest.raises(InvalidInput, match=r"^from .* neither a date nor a date-time"):
        parse_instant(text, ZoneInfo("UTC"), "from")


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "America", "/etc/localtime", "x\0y"])
def test_a_zone_that_is_not_is_refused(name):
    with pytest.raises(InvalidInput, match="time zone"):
        load_zone(name)


def test_an_interval_left_out_is_this_month_so_far():
    now_ms = utc("2026-11-22T03:00")
    zone = ZoneInfo("Asia/Shanghai")
    assert parse_interval(None, None, zone, now_ms) == (utc("2026-10-31T16:00"), now_ms)


@pytest.mark.parametrize(("start", "end"), [("2026-11-01", "2026-11-01"), ("2026-12-01", "2026-11-01")])
def test_an_interval_that_ends_before_it_begins_is_refused(start, end):
    with pytest.raises(InvalidInput, match="half-open"):
        parse_interval(start, end, ZoneInfo("UTC"), 0)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
    ],
)
def test_a_day_on_which_clocks_change_has_its_real_length(zone, day, hours):
    named = ZoneInfo(zone)
    begins = first_moment(date.fromisoformat(day), named)
    ((found, start, end),) = days(begins, begins + 1, named)
    assert (found.isoformat(), start, end) == (day, begins, begins + 1)
    next_day = date.fromordinal(found.toordinal() + 1)
    assert first_moment(next_day, named) - begins == hours * 3_600_000


def test_a_day_that_a_zone_left_out_does_not_appear():
    samoa = ZoneInfo("Pacific/Apia")
    cut = days(first_moment(date(2011, 12, 29), samoa), first_moment(date(2012, 1, 1), samoa), samoa)
    assert [day.isoformat() for day, _, _ in cut] == ["2011-12-29", "2011-12-31"]


instants = st.integers(min_value=utc("2000-01-01"), max_value=utc("2040-01-01"))


@given(instants, st.integers(min_value=1, max_value=40 * 86_400_000), st.sampled_from(ZONES))
def test_days_cover_an_interval_once_and_each_instant_lies_in_its_day(start, length, name):
    zone, end = ZoneInfo(name), start + length
    cuts = list(days(start, end, zone))
    assert cuts[0][1] == start
    assert cuts[-1][2] == end
    assert all(before[2] == after[1] for before, after in pairwise(cuts))
    for day, begins, ends in cuts:
        assert local_time(begins, zone).date() == day == local_time(ends - 1, zone).date()
