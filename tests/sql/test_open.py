"""Open requests in the database: kept true while they are renewed, given out once nobody renews them."""

import pytest
from sqlalchemy import update

from gateway.core.usage import Usage
from gateway.stores.schema import open_clock
from gateway.stores.sql_open import CLOCK_STEP_MS_MAX, LateClose, OpenRow, SqlOpenRequests
from tests.meter_events import event, opened

HOUR_MS = 3_600_000


def row(number: int, completion: int = 0) -> OpenRow:
    return OpenRow(opened(number), Usage(10, completion, 4, 1), opened(number).arrived_ms + completion)


@pytest.fixture
def table(database):
    return SqlOpenRequests(database, "g1", lease_s=2 * CLOCK_STEP_MS_MAX / 1000)


def pass_time(database, ms: int) -> None:
    """Let so much time have passed since any gateway was here, by the database's clock."""
    with database.writing() as connection:
        connection.execute(update(open_clock).values(seen_ms=open_clock.c.seen_ms - ms))


def test_what_nobody_renews_for_its_lease_is_given_as_it_was_last_written(database, table):
    table.renew([row(1), row(2)])
    table.renew([row(1, completion=7)])
    assert table.expired(10) == []
    for _ in range(2):
        pass_time(database, CLOCK_STEP_MS_MAX)
        expired = table.expired(10)
    assert sorted(expired, key=lambda each: each.event.id) == [row(1, completion=7), row(2)]
    table.remove([row(1).event.id, row(2).event.id])
    table.remove([row(1).event.id])
    assert table.expired(10) == []


def test_what_is_renewed_does_not_expire(database, table):
    table.renew([row(1), row(2)])
    pass_time(database, CLOCK_STEP_MS_MAX)
    table.renew([row(1, completion=1)])
    pass_time(database, CLOCK_STEP_MS_MAX)
    assert [each.event.id for each in table.expired(10)] == [row(2).event.id]


@pytest.mark.parametrize("step_ms", [1000 * HOUR_MS, -1000 * HOUR_MS], ids=["an outage, or forth", "back"])
def test_neither_an_outage_nor_a_clock_that_is_set_lets_leases_expire(database, table, step_ms):
    """Nobody could renew meanwhile: of all that time a few seconds count."""
    table.renew([row(1)])
    pass_time(database, step_ms)
    assert table.expired(10) == []
    pass_time(database, CLOCK_STEP_MS_MAX)
    pass_time(database, -step_ms)
    table.renew([row(1)])
    assert table.expired(10) == []


def test_many_gateways_do_not_make_the_clock_run_faster(database, table):
    table.renew([row(1)])
    others = [SqlOpenRequests(database, f"g{number}", lease_s=60) for number in range(2, 8)]
    pass_time(database, CLOCK_STEP_MS_MAX)
    assert [other.expired(10) for other in others] == [[]] * 6


def test_any_text_of_a_client_can_be_kept(database, table):
    strange = opened(1, model="\0 \ud800 ' \N{PILE OF POO} " + "x" * 1000)
    table.renew([OpenRow(strange, Usage(), 1)])
    for _ in range(2):
        pass_time(database, CLOCK_STEP_MS_MAX)
        expired = table.expired(10)
    assert [each.event for each in expired] == [strange]


def test_an_event_that_comes_after_its_request_was_settled_is_late_by_the_difference(journal, table):
    settled = event(1, outcome="interrupted", flag="interrupted", completion_tokens=7, cached_tokens=0)
    journal.append([settled, event(2), event(3, outcome="interrupted")])
    came = [event(1), event(2), event(3, outcome="interrupted"), event(4)]
    assert table.late(came) == [
        LateClose(event(1), prompt_tokens=0, cached_tokens=4, completion_tokens=13, reasoning_tokens=0)
    ]
    assert table.late([]) == []
