"""Usage reports: golden files, odd zones, and totals that are sums of rows that are sums of events."""

import csv
import io
import json
import random
from collections import defaultdict
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from gateway.core.rating import rate
from gateway.core.zones import first_moment, hours, load_zone, local_time, parse_interval
from gateway.errors import InvalidInput
from gateway.finance.reports import DENIALS, GROUPS, UsageQuery, parse_groups, usage_report
from gateway.stores.database import Database
from gateway.stores.schema import meter_events, migrate, usage_days, usage_hours, usage_lines
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_directory import SqlDirectory
from tests.meter_events import event
from tests.prices import HALF, NEW, OLD, PRICES

GOLDEN = Path(__file__).parent / "golden"
HOUR_MS = 3_600_000
BOOK = {price.id: price for price in PRICES}


def ask(journal, start, end, zone="UTC", by="", tenant=None):
    named = load_zone(zone)
    from_ms, to_ms = parse_interval(start, end, named, 0)
    return usage_report(
        journal, UsageQuery(from_ms=from_ms, to_ms=to_ms, zone=named, group_by=parse_groups(by), tenant=tenant)
    )


def denial(number, **fields):
    nothing = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"), 0)
    return event(number, **{"outcome": "queue_full", "flag": "none", "status": 429, "attempts": 0, **nothing, **fields})


def november():
    """A month of three tenants, made by a fixed recipe, with events at its very edges."""
    start, end = (first_moment(date(2026, month, 1), ZoneInfo("Asia/Shanghai")) for month in (11, 12))
    dice = random.Random(2026)
    edges = [start - 1, start, end - 1, end]
    moments = edges + [dice.randrange(start, end) for _ in range(200)]
    flags = [
        ("completed", "exact"),
        ("completed", "exact"),
        ("client_gone", "delivered"),
        ("interrupted", "interrupted"),
    ]
    for number, at in enumerate(moments):
        who = {"tenant": dice.choice(["acme", "beta", "通义"]), "key": f"key_{dice.randrange(2)}", "arrived_ms": at}
        if dice.random() < 0.1:
            yield denial(number, model="", **who)
            continue
        outcome, flag = dice.choice(flags)
        tokens = {"prompt_tokens": dice.randrange(50, 900), "cached_tokens": dice.randrange(50)}
        tokens |= {"completion_tokens": dice.randrange(900), "reasoning_tokens": 0}
        model = dice.choice(["qwen3", "qwen3-8b"])
        served_as = {"model": model, "service_class": "batch" if number % 5 == 0 else "standard"}
        if who["tenant"] != "beta" or model == "qwen3":
            served_as["price"] = "price_usd" if model == "qwen3-8b" else OLD.id if at < OLD.to_ms else NEW.id
        yield event(number, outcome=outcome, flag=flag, **served_as, **tokens, **who)


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("total", ""),
        ("tenant", "tenant"),
        ("tenant_model", "tenant,model"),
        ("day", "day"),
        ("all", "day,tenant,key,model"),
        ("price", "model,class,price"),
    ],
)
def test_a_month_is_reported_as_in_the_golden_file(journal, name, by):
    """After a change that is meant, delete the file and run the test twice."""
    journal.append(list(november()))
    report = ask(journal, "2026-11-01", "2026-12-01", "Asia/Shanghai", by)
    golden = GOLDEN / f"usage_{name}.csv"
    if not golden.exists():
        golden.write_text(report.to_csv())
        pytest.fail(f"{golden} was missing and is written now: look at it")
    assert report.to_csv() == golden.read_text()


def test_months_that_adjoin_count_each_event_once(journal):
    events = list(november())
    journal.append(events)
    months = [("2026-10-01", "2026-11-01"), ("2026-11-01", "2026-12-01"), ("2026-12-01", "2027-01-01")]
    reports = [ask(journal, start, end, "Asia/Shanghai").totals for start, end in months]
    assert [totals.requests for totals in reports] == [1, len(events) - 2, 1]


def test_the_last_day_of_a_month_is_reported_to_its_last_millisecond(journal):
    zone = ZoneInfo("Asia/Shanghai")
    end = first_moment(date(2026, 12, 1), zone)
    journal.append([event(1, arrived_ms=end - 1)])
    report = ask(journal, "2026-11-01", "2026-12-01", "Asia/Shanghai", "day")
    assert [row.group for row in report.rows] == [("2026-11-30",)]


@pytest.mark.parametrize(
    ("zone", "at_utc", "day"),
    [
        ("Asia/Kolkata", "2026-11-01T18:29:59.999", "2026-11-01"),
        ("Asia/Kolkata", "2026-11-01T18:30:00.000", "2026-11-02"),
        ("Asia/Kathmandu", "2026-11-01T18:15:00.000", "2026-11-02"),
        ("Asia/Kathmandu", "2026-11-01T18:14:59.999", "2026-11-01"),
        ("America/New_York", "2026-11-01T04:00:00.000", "2026-11-01"),
        ("America/New_York", "2026-11-02T04:59:59.999", "2026-11-01"),  # the day has 25 hours
        ("America/New_York", "2026-11-02T05:00:00.000", "2026-11-02"),
    ],
)
def test_an_event_belongs_to_the_day_that_its_zones_clocks_showed(journal, zone, at_utc, day):
    at, _ = parse_interval(f"{at_utc}+00:00", "2030-01-01", ZoneInfo("UTC"), 0)
    journal.append([event(1, arrived_ms=at)])
    report = ask(journal, "2026-10-30", "2026-11-05", zone, "day")
    assert [row.group for row in report.rows] == [(day,)]


def test_25_hours_of_traffic_make_one_day_when_clocks_go_back(journal):
    zone = ZoneInfo("Europe/Berlin")
    start = first_moment(date(2026, 10, 25), zone)
    journal.append([event(hour, arrived_ms=start + hour * HOUR_MS) for hour in range(-1, 26)])
    report = ask(journal, "2026-10-24", "2026-10-27", "Europe/Berlin", "day")
    assert [(row.group[0], row.measures.requests) for row in report.rows] == [
        ("2026-10-24", 1),
        ("2026-10-25", 25),
        ("2026-10-26", 1),
    ]


def test_denials_are_counted_apart_and_have_no_tokens(journal):
    journal.append(
        [event(1), denial(2), denial(3, outcome="unauthenticated", tenant="", key=""), event(4, outcome="client_gone")]
    )
    totals = ask(journal, "2023-01-01", "2024-01-01").totals
    assert (totals.requests, totals.completed, totals.denied) == (4, 1, 2)
    assert totals.total_tokens == 60


def test_only_one_tenants_events_are_in_its_report(journal):
    journal.append([event(1, tenant="acme"), event(2, tenant="beta")])
    assert ask(journal, "2023-01-01", "2024-01-01", tenant="beta").totals.requests == 1


def test_a_report_without_groups_has_one_row_even_when_nothing_happened(journal):
    report = ask(journal, "2023-01-01", "2024-01-01")
    assert [(row.group, row.measures.requests) for row in report.rows] == [((), 0)]
    assert ask(journal, "2023-01-01", "2024-01-01", by="tenant").rows == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tenant": "nobody"}, "no tenant 'nobody'"),
        (
            {"by": "tenant,colour"},
            "no group 'colour'. Group by any of tenant, project, key, model, pool, class, price, day, hour",
        ),
        ({"zone": "Mars"}, "no time zone 'Mars'"),
        ({"start": "soon"}, "from 'soon'"),
        ({"end": "2022-01-01"}, "half-open"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(journal, options, message):
    with pytest.raises(InvalidInput, match=message):
        ask(journal, **{"start": "2023-01-01", "end": "2024-01-01", **options})


def test_json_has_the_same_rows_as_csv_and_their_sums(journal):
    journal.append(list(november()))
    report = ask(journal, "2026-11-01", "2026-12-01", "Asia/Shanghai", "tenant,day")
    data = json.loads(json.dumps(report.to_json()))
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [{name: str(value) for name, value in row.items()} for row in data["rows"]] == rows
    for name, total in data["totals"].items():
        assert total == sum(int(row[name]) for row in rows)
    assert (data["from"], data["to"]) == ("2026-11-01T00:00:00+08:00", "2026-12-01T00:00:00+08:00")


def test_a_name_that_a_spreadsheet_would_run_is_made_harmless(journal):
    journal.append([denial(1, model='=HYPERLINK("http://x")', outcome="unknown_model")])
    text = ask(journal, "2023-01-01", "2024-01-01", by="model").to_csv()
    assert next(csv.DictReader(io.StringIO(text)))["model"].startswith("'=")


outcomes = st.sampled_from(["completed", "client_gone", "upstream_failed", *sorted(DENIALS)])
made = st.builds(
    lambda prompt, share, **fields: {**fields, "prompt_tokens": prompt, "cached_tokens": prompt * share // 10},
    prompt=st.integers(0, 1 << 40),
    share=st.integers(0, 10),
    completion_tokens=st.integers(0, 1 << 40),
    reasoning_tokens=st.integers(0, 1000),
    tenant=st.sampled_from(["a", "b", "c"]),
    key=st.sampled_from(["k", "l"]),
    model=st.sampled_from(["m", "n"]),
    outcome=outcomes,
    flag=st.sampled_from(["exact", "delivered", "interrupted", "none"]),
    service_class=st.sampled_from(["batch", "standard"]),
    price=st.sampled_from(["", "price_gone", *(price.id for price in PRICES)]),
    images=st.integers(0, 3),
    arrived_ms=st.integers(1_774_000_000_000, 1_776_000_000_000),
)


@pytest.fixture(scope="module")
def shared_database(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('reports') / 'sluice.db'}"
    migrate(url)
    database = Database(url)
    SqlDirectory(database).put_prices(PRICES)
    yield database
    database.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(made, max_size=25),
    st.sets(st.sampled_from(GROUPS)),
    st.sampled_from(["UTC", "Asia/Kolkata", "Europe/Berlin", "Australia/Lord_Howe"]),
)
def test_totals_are_the_sums_of_rows_and_of_events(shared_database, fields, by, zone):
    with shared_database.writing() as connection:
        for table in (meter_events, usage_hours, usage_days, usage_lines):
            connection.execute(delete(table))
    journal = SqlJournal(shared_database)
    events = [event(number, **each) for number, each in enumerate(fields)]
    journal.append(events)
    report = ask(journal, "2026-03-27", "2026-04-07", zone, ",".join(sorted(by)))
    inside = [each for each in events if report.query.from_ms <= each.arrived_ms < report.query.to_ms]
    totals = report.totals
    assert totals.requests == len(inside)
    assert totals.total_tokens == sum(each.prompt_tokens + each.completion_tokens for each in inside)
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"):
        assert getattr(totals, name) == sum(getattr(each, name) for each in inside)
    if "day" in by:
        days = {local_time(each.arrived_ms, report.query.zone).date().isoformat() for each in inside}
        assert {row["day"] for row in report.records()} == days
    assert report.amounts_nano == amounts(report)
    assert exact_femto(report) == sum(femto(each) for each in inside)
    unpriced = [each for each in inside if each.flag != "none" and each.price not in BOOK]
    assert (totals.unpriced_requests, totals.unpriced_tokens) == (len(unpriced), sum(map(tokens, unpriced)))


def tokens(each):
    return each.prompt_tokens + each.completion_tokens


def femto(each):
    return sum(charge.femto for charge in rate(each, BOOK[each.price])) if each.price in BOOK else 0


def exact_femto(report):
    return sum(line.charge.femto for row in report.rows for line in row.lines)


def amounts(report):
    """Add up the lines as someone with the exported file would."""
    sums = defaultdict(int)
    for line in report.line_records():
        sums[line["currency"]] += line["amount_nano"]
    return dict(sums)


def test_a_group_that_was_charged_in_two_currencies_has_a_row_for_each(journal):
    """Currencies are never added up; what was charged in none is told once, with the first."""
    journal.append([event(1, price="price_usd"), event(2, price=OLD.id), event(3), denial(4)])
    report = ask(journal, "2023-01-01", "2024-01-01", by="tenant")
    assert [(row.group, row.currency, row.measures.requests) for row in report.rows] == [
        (("acme",), "CNY", 3),
        (("acme",), "USD", 1),
    ]
    assert report.rows[0].measures.unpriced_requests == 1
    assert report.amounts_nano == {"CNY": (6 * 300 + 4 * 60 + 20 * 600), "USD": 10 * 41 + 20 * 83}


def test_lines_show_what_was_charged_for_with_the_batch_factor_in_the_price(journal):
    at_tier = {"prompt_tokens": 1000, "cached_tokens": 100, "completion_tokens": 10, "reasoning_tokens": 0}
    journal.append([event(n, price=OLD.id, service_class="batch", images=1, **at_tier) for n in range(3)])
    report = ask(journal, "2023-01-01", "2024-01-01", by="class")
    assert [tuple(line.values())[:7] for line in report.line_records()] == [
        ("batch", OLD.id, 1, "yes", "input", 2700, "0.45"),
        ("batch", OLD.id, 1, "yes", "cached_input", 300, "0.45"),
        ("batch", OLD.id, 1, "yes", "output", 30, "0.9"),
        ("batch", OLD.id, 1, "yes", "image", 3, "0"),
    ]
    rows = list(csv.DictReader(io.StringIO(report.to_csv(lines=True))))
    assert sum(int(row["amount_nano"]) for row in rows) == report.amounts_nano["CNY"]


def test_a_line_is_rounded_once_whatever_it_was_summed_from(journal):
    """A thousand requests of half a nano-unit each cost 500 nano-units, not nothing."""
    halves = {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 1, "reasoning_tokens": 0}
    journal.append([event(n, price=HALF.id, **halves) for n in range(1000)])
    report = ask(journal, "2023-01-01", "2024-01-01")
    assert report.amounts_nano == {"CNY": 500}


def test_hours_are_those_of_the_zones_clocks(journal):
    zone = ZoneInfo("Asia/Kolkata")
    start = first_moment(date(2026, 11, 1), zone)
    journal.append([event(n, arrived_ms=start + n * HOUR_MS // 2) for n in range(-1, 3)])
    report = ask(journal, "2026-10-31T23:30", "2026-11-01T01:01", "Asia/Kolkata", "day,hour")
    assert [(*row.group, row.measures.requests) for row in report.rows] == [
        ("2026-10-31", "2026-10-31T23:00+05:30", 1),
        ("2026-11-01", "2026-11-01T00:00+05:30", 2),
        ("2026-11-01", "2026-11-01T01:00+05:30", 1),
    ]


@pytest.mark.parametrize(
    ("zone", "hours_of_two_parts"), [("Australia/Lord_Howe", 1), ("Europe/Berlin", 0), ("Asia/Kathmandu", 0)]
)
def test_hours_adjoin_where_clocks_change(zone, hours_of_two_parts):
    """Where clocks go back by half an hour, they show the same hour for ninety minutes."""
    named = ZoneInfo(zone)
    start, end = first_moment(date(2026, 3, 1), named), first_moment(date(2026, 11, 30), named)
    cut = list(hours(start, end, named))
    assert [first for _, first, _ in cut] == [start, *(last for _, _, last in cut[:-1])]
    assert cut[-1][2] == end
    assert len({hour.isoformat() for hour, _, _ in cut}) == len(cut) - hours_of_two_parts


@pytest.mark.parametrize(
    ("by", "end", "message"),
    [
        ("hour", "2023-03-15", "has 73 days; by hour a report has at most 62"),
        ("day", "2040-01-01", "by day a report has at most 3700. Shorten it, or leave day out"),
    ],
)
@pytest.mark.parametrize("journal", ["sqlite"], indirect=True)
def test_a_report_of_too_many_parts_says_what_to_do(journal, by, end, message):
    with pytest.raises(InvalidInput, match=message):
        ask(journal, "2023-01-01", end, by=by)
