"""The ledger: sums are those of the events, whatever is replayed, overlaps, comes late or is cut anywhere."""

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from gateway.core.rating import rated
from gateway.core.statement import UNRATED, UsageSum, statement
from gateway.core.zones import days, load_zone
from gateway.errors import StoreUnavailable
from gateway.stores.database import Database
from gateway.stores.schema import (
    LINE_TEXTS,
    USAGE_MEASURES,
    meter_events,
    migrate,
    usage_days,
    usage_hours,
    usage_lines,
)
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_rollups import DAY_MS, HOUR_MS, tier_of
from tests.meter_events import event, usage_of
from tests.prices import NEW, OLD, PRICES

BEGIN_MS = 1_774_656_000_000  # 2026-03-28, the day before clocks go forward in Europe
SPAN_MS = 4 * DAY_MS
BOOK = {price.id: price for price in PRICES}
BY = ("tenant", "project", "key", "model", "pool")
FAR_TIMES = (-5, 0, 1_577_836_799_999, 1_577_836_800_000, 1_700_000_000_000, 4_102_444_799_999, 4_102_444_800_000)

made = st.builds(
    lambda prompt, cached, **fields: {**fields, "prompt_tokens": prompt, "cached_tokens": prompt * cached // 10},
    prompt=st.integers(0, 3000),
    cached=st.integers(0, 10),
    completion_tokens=st.integers(5, 1 << 40),
    tenant=st.sampled_from(["a", "b"]),
    project=st.sampled_from(["p", "q"]),
    model=st.sampled_from(["m", 'é \\ "n"']),
    pool=st.sampled_from(["x", "y", ""]),
    outcome=st.sampled_from(["completed", "client_gone", "queue_full"]),
    flag=st.sampled_from(["exact", "delivered", "none"]),
    service_class=st.sampled_from(["batch", "standard"]),
    price=st.sampled_from(["", *BOOK, "price_gone"]),
    images=st.integers(0, 2),
    arrived_ms=st.integers(BEGIN_MS, BEGIN_MS + SPAN_MS),
)
shuffled = st.integers(0, 1 << 30)


def brute_force(events, unit_ms=None, by=(*LINE_TEXTS, "tier")):
    """Add up events one by one; gives sums by unit of time, if one is given, and by the values of a line."""
    found = defaultdict(lambda: [0] * len(USAGE_MEASURES))
    for each in events:
        rate = rated(each, BOOK.get(each.price))
        values = {**asdict(each), "tier": tier_of(rate), "model": each.model if each.pool else ""}
        measures = [1, *(values[name] for name in USAGE_MEASURES[1:-1]), rate.cost_nano or 0]
        key = (each.arrived_ms // unit_ms * unit_ms if unit_ms else None, *(values[name] for name in by))
        found[key] = [a + b for a, b in zip(found[key], measures, strict=True)]
    return dict(found)


def rolled_up(database, table):
    """Read a whole rollup."""
    query = select(table.c.at_ms, *(usage_lines.c[name] for name in (*LINE_TEXTS, "tier")), *_measures(table))
    with database.reading() as connection:
        rows = connection.execute(query.join_from(table, usage_lines, usage_lines.c.id == table.c.line)).all()
        assert len(rows) == connection.execute(select(func.count()).select_from(table)).scalar_one(), (
            "a line is missing"
        )
    return {tuple(row[: 2 + len(LINE_TEXTS)]): list(row[2 + len(LINE_TEXTS) :]) for row in rows}


def _measures(table):
    return [table.c[name] for name in USAGE_MEASURES]


def summed(sums, by=BY):
    names = (*by, "service_class", "outcome", "flag", "price", "tier")
    return {
        (None, *(getattr(each, name) for name in names)): [getattr(each, name) for name in USAGE_MEASURES]
        for each in sums
    }


def empty(database):
    with database.writing() as connection:
        for table in (meter_events, usage_hours, usage_days, usage_lines):
            connection.execute(table.delete())


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shared(request, tmp_path_factory):
    """A database that the module's examples share, each emptying it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'sluice.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_server").new_database("ledger")
    migrate(url)
    database = Database(url)
    SqlDirectory(database).put_prices(PRICES)
    yield database
    database.close()


examples = partial(settings, suppress_health_check=[HealthCheck.function_scoped_fixture])


@examples(max_examples=30)
@given(st.lists(made, max_size=30), st.randoms(use_true_random=False))
def test_batches_that_are_replayed_in_whole_or_in_part_change_nothing_twice(shared, fields, dice):
    empty(shared)
    journal = SqlJournal(shared)
    events = [event(number, **each) for number, each in enumerate(fields)]
    sent = events + [each for each in events if dice.random() < 0.5]
    dice.shuffle(sent)
    new = []
    while sent:
        size = dice.randrange(1, 8)
        appended = journal.append(sent[:size])
        assert appended.new == len(appended.rated)
        new += [each.event.id for each in appended.rated]
        sent = sent[size:]
    assert sorted(new) == [each.id for each in events]
    assert rolled_up(shared, usage_hours) == brute_force(events, HOUR_MS)
    assert rolled_up(shared, usage_days) == brute_force(events, DAY_MS)


moments = st.one_of(
    st.integers(BEGIN_MS - HOUR_MS, BEGIN_MS + SPAN_MS + HOUR_MS),
    st.integers(-1, 4).map(lambda day: BEGIN_MS + day * DAY_MS),
    st.integers(0, 96).map(lambda hour: BEGIN_MS + hour * HOUR_MS),
)


@examples(max_examples=40)
@given(st.lists(made, max_size=40), moments, moments, st.sets(st.sampled_from(BY)), st.sampled_from([None, "a"]))
def test_any_interval_has_the_sum_of_its_events(shared, fields, one, other, by, tenant):
    empty(shared)
    journal = SqlJournal(shared)
    events = [event(number, **each) for number, each in enumerate(fields)]
    journal.append(events)
    start, end = sorted((one, other))
    inside = [each for each in events if start <= each.arrived_ms < end and tenant in (None, each.tenant)]
    asked = [name for name in BY if name in by]
    names = (*asked, "service_class", "outcome", "flag", "price", "tier")
    assert summed(usage_of(journal, start, end, by, tenant=tenant), asked) == brute_force(inside, by=names)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Europe/Berlin"])
@examples(max_examples=8)
@given(fields=st.lists(made, max_size=30))
def test_the_days_of_any_zone_add_up_to_the_whole_and_cost_the_same(shared, zone, fields):
    """Rating is associative over splits of a period: what is added up first is rated then, and rounded once."""
    empty(shared)
    journal = SqlJournal(shared)
    journal.append([event(number, **each) for number, each in enumerate(fields)])
    cut = [(start, end) for _, start, end in days(BEGIN_MS - 1, BEGIN_MS + SPAN_MS + 1, load_zone(zone))]
    parts = [each for sums in journal.usage_of_parts(cut) for each in sums]
    whole = usage_of(journal, BEGIN_MS - 1, BEGIN_MS + SPAN_MS + 1)
    book = journal.prices_of(BOOK)
    assert book == BOOK
    assert statement(parts, book) == statement(whole, book)


def test_an_event_is_stored_with_what_it_costs(journal, database, directory):
    directory.put_prices(PRICES)
    long = {"prompt_tokens": 600, "cached_tokens": 0, "completion_tokens": 100, "reasoning_tokens": 0}
    new = journal.append([event(1, price=OLD.id, **long), event(2, price="price_gone"), event(3)]).rated
    assert [each.cost_nano for each in new] == [(600 * 900 + 100 * 1800), None, None]
    query = select(meter_events.c.tier, meter_events.c.cost_nano, meter_events.c.currency).order_by(meter_events.c.id)
    with database.reading() as connection:
        rows = connection.execute(query).all()
    assert rows == [(1, 720_000, "CNY"), (UNRATED, None, ""), (UNRATED, None, "")]


def test_a_price_that_comes_after_its_events_is_not_guessed_back(journal, directory):
    journal.append([event(1, price=OLD.id)])
    directory.put_prices(PRICES)
    journal.append([event(2, price=OLD.id)])
    stated = statement(usage_of(journal, 0, 1 << 50), BOOK)
    assert (stated.unpriced_requests, stated.unpriced_tokens) == (1, 30)
    assert [(line.charge.unit.value, line.charge.quantity) for line in stated.lines] == [
        ("input", 6),
        ("cached_input", 4),
        ("output", 15),
        ("reasoning", 5),
    ]


def test_only_the_usage_of_one_key_is_told_if_that_is_asked(journal):
    journal.append([event(1, key="k"), event(2, key="l"), event(3, key="k", arrived_ms=1_700_100_000_000)])
    (total,) = usage_of(journal, 1_699_999_999_999, 1_700_200_000_001, key="k")
    assert total.requests == 2


def test_two_gateways_that_append_the_same_events_at_once_count_each_once(database_url):
    """As when a segment is shipped by its owner and by who adopted it: overlapping batches, in opposite orders."""
    numbers = range(600)
    events = [event(n, tenant=f"t{n % 7}", arrived_ms=1_700_000_000_000 + n * 60_000, price=OLD.id) for n in numbers]
    start = threading.Barrier(2, timeout=20)

    def ship(order):
        database = Database(database_url)
        journal = SqlJournal(database)
        start.wait()
        new = [journal.append(order[at : at + 50]).new for at in range(0, len(order), 25)]
        database.close()
        return sum(new)

    first = Database(database_url)
    SqlDirectory(first).put_prices(PRICES)
    with ThreadPoolExecutor(2) as pool:
        new = sum(pool.map(ship, (events, events[::-1])))
    assert new == len(events)
    assert rolled_up(first, usage_hours) == brute_force(events, HOUR_MS)
    assert rolled_up(first, usage_days) == brute_force(events, DAY_MS)
    first.close()


def test_a_batch_that_fails_leaves_nothing_behind(journal, database):
    huge = {"cached_tokens": 0, "completion_tokens": 0, "reasoning_tokens": 0, "prompt_tokens": 2**62}
    journal.append([event(1, **huge)])
    with pytest.raises(StoreUnavailable):
        journal.append([event(2), event(3, **huge)])
    (total,) = usage_of(journal, 0, 1 << 50)
    assert (total.requests, total.prompt_tokens) == (1, 2**62), "a sum without room in 64 bits must fail, and loudly"
    assert journal.append([event(2)]).new == 1


def test_rollups_grow_with_who_uses_what_in_an_hour_and_not_with_events(journal, database):
    for hour in range(2):
        for tenant in ("a", "b"):
            at = 1_700_000_000_000 + hour * HOUR_MS
            batch = [event(n, tenant=tenant, id=f"{hour}{tenant}{n}", arrived_ms=at + n) for n in range(100)]
            journal.append(batch)
    made_up = {"pool": "", "outcome": "unknown_model", "flag": "none", "tenant": "a"}
    journal.append([event(n, model=f"made-up-{n}", **made_up) for n in range(100)])
    assert len(rolled_up(database, usage_hours)) == 2 * 2 + 1
    assert len(rolled_up(database, usage_days)) == 2 + 1
    assert {each.model for each in usage_of(journal, 0, 1 << 50, ["model"])} == {"qwen3", ""}


def test_events_of_any_time_are_taken_and_found(journal):
    journal.append([event(n, arrived_ms=at) for n, at in enumerate(FAR_TIMES)])
    assert journal.append([event(n, arrived_ms=at) for n, at in enumerate(FAR_TIMES)]).new == 0
    (total,) = usage_of(journal, -10, 1 << 50)
    assert total.requests == len(FAR_TIMES)
    assert [each.requests for each in usage_of(journal, 0, 1)] == [1]


@pytest.mark.postgres
def test_each_month_has_its_partition_and_the_next_has_one_ahead(postgres_url):
    migrate(postgres_url)
    database = Database(postgres_url)
    SqlJournal(database).append([event(1, arrived_ms=1_703_980_800_000), event(2, arrived_ms=1_577_836_800_000)])
    with database.reading() as connection:
        tables = connection.execute(text("SELECT inhrelid::regclass::text FROM pg_inherits ORDER BY 1")).scalars()
        names = {name for name in tables if name.startswith("meter_events_") and "_ix" not in name}
        where = select(text("tableoid::regclass::text")).select_from(meter_events).order_by(meter_events.c.id)
        assert connection.execute(where).scalars().all() == ["meter_events_2023_12", "meter_events_2020_01"]
    months = {f"meter_events_{month}" for month in ("2020_01", "2023_12", "2024_01")}
    assert {name for name in names if "_pkey" not in name and name.count("_") <= 4} >= months
    assert not [name for name in names if "default" in name]
    database.close()


@pytest.mark.postgres
def test_an_archived_month_is_made_anew_when_an_event_of_it_comes_late(postgres_url):
    migrate(postgres_url)
    database = Database(postgres_url)
    journal = SqlJournal(database)
    journal.append([event(1)])
    with database.writing() as connection:
        connection.execute(text("DROP TABLE meter_events_2023_11"))
    with pytest.raises(StoreUnavailable):
        journal.append([event(2)])
    assert journal.append([event(2)]).new == 1
    database.close()


@pytest.mark.postgres
def test_gateways_that_need_the_same_new_months_at_once_all_get_them(postgres_url):
    migrate(postgres_url)
    start = threading.Barrier(4, timeout=20)

    def append(gateway):
        database = Database(postgres_url)
        journal = SqlJournal(database)
        start.wait()
        batch = [event(100 * gateway + month, arrived_ms=1_600_000_000_000 + 31 * DAY_MS * month) for month in range(5)]
        new = journal.append(batch).new
        database.close()
        return new

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(append, range(4))) == [5] * 4


@pytest.mark.postgres
def test_a_deadlock_with_somebody_elses_transaction_is_tried_again_within_the_limit(postgres_url):
    migrate(postgres_url)
    database = Database(postgres_url, timeout_s=10)
    journal = SqlJournal(database)
    journal.append([event(1)])
    with ThreadPoolExecutor(1) as pool:
        with database.writing() as other:
            other.execute(text("SET LOCAL deadlock_timeout = '9s'"))  # so that the other one is the victim
            other.execute(text("UPDATE usage_days SET requests = requests + 0"))
            appending = pool.submit(journal.append, [event(2)])
            wait_until_blocked(database)
            other.execute(text("UPDATE usage_hours SET requests = requests + 0"))
        assert appending.result().new == 1
    assert usage_of(journal, 0, 1 << 50)[0].requests == 2
    database.close()


def wait_until_blocked(database):
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        with database.reading() as connection:
            if connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
                return
    raise AssertionError("nobody waits for a lock")


def test_sums_of_nothing_are_nothing(journal):
    assert usage_of(journal, 0, 1 << 50) == []
    assert statement([], {}).amounts_nano == {}


def test_a_statement_keeps_currencies_apart():
    sums = [_sum(price="price_usd", tier=0), _sum(price=NEW.id, tier=0), _sum(price=NEW.id, tier=0, flag="delivered")]
    assert statement(sums, BOOK).amounts_nano == {"CNY": 2 * (1000 * 150 + 500 * 333), "USD": 1000 * 41 + 500 * 83}


def _sum(**values):
    counted = {"requests": 1, "prompt_tokens": 1000, "cached_tokens": 0, "completion_tokens": 500}
    nothing = dict.fromkeys(("reasoning_tokens", "images", "audio_ms", "cost_nano"), 0)
    return UsageSum(
        **{"service_class": "standard", "outcome": "completed", "flag": "exact", **counted, **nothing, **values}
    )
