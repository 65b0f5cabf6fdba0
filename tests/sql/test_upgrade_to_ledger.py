"""Events of before the ledger are all there after the upgrade, and summed; an older version must not write beside."""

import random
from dataclasses import asdict

import pytest
from sqlalchemy import text

from gateway.errors import StoreUnavailable
from gateway.stores.database import Database
from gateway.stores.schema import migrate, usage_days, usage_hours
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_rollups import DAY_MS, HOUR_MS
from tests.meter_events import event, usage_of
from tests.sql.test_database import migrate_to
from tests.sql.test_ledger import FAR_TIMES, brute_force, rolled_up

OF_0008 = ("continued", "carried_tokens", "carried_by")


def as_the_older_version(database, events):
    """Write events as version 0003 did."""
    names = [name for name in asdict(event()) if name not in OF_0008]
    statement = f"INSERT INTO meter_events ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
    with database.writing() as connection:
        connection.execute(text(statement + " ON CONFLICT DO NOTHING"), [asdict(each) for each in events])


def of_before():
    """Make events of four months and of impossible times; some for models that there are not."""
    dice = random.Random(4)
    times = [*FAR_TIMES, *(dice.randrange(1_790_000_000_000, 1_800_000_000_000) for _ in range(80))]
    for number, at in enumerate(times):
        pool = dice.choice(["qwen3", "qwen3", ""])
        yield event(number, arrived_ms=at, pool=pool, model=dice.choice(["m", "é"]), tenant=dice.choice("ab"))


@pytest.fixture
def upgraded(empty_url):
    """A database that version 0003 wrote events to before it was brought up to date; and an engine for it."""
    migrate_to(empty_url, "0003")
    database = Database(empty_url)
    as_the_older_version(database, of_before())
    migrate(empty_url)
    yield database
    database.close()


def test_the_events_of_before_are_all_there_and_summed_as_unpriced(upgraded):
    events = list(of_before())
    assert rolled_up(upgraded, usage_hours) == brute_force(events, HOUR_MS)
    assert rolled_up(upgraded, usage_days) == brute_force(events, DAY_MS)
    assert sum(each.requests for each in usage_of(SqlJournal(upgraded), -10, 1 << 50)) == len(events)


def test_shipping_them_again_after_the_upgrade_changes_nothing(upgraded):
    assert SqlJournal(upgraded).append(list(of_before())).new == 0


def test_an_older_gateway_cannot_write_events_that_no_rollup_has(upgraded):
    """Its spool keeps them, and they are shipped once it is upgraded too."""
    with pytest.raises(StoreUnavailable):
        as_the_older_version(upgraded, [event(1000, arrived_ms=1_795_000_000_000)])
    assert SqlJournal(upgraded).append([event(1000, arrived_ms=1_795_000_000_000)]).new == 1
