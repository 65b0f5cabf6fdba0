"""The Journal's contract, on every database."""

import pytest
from sqlalchemy import func, select

from gateway.core.usage import MeterEvent
from gateway.stores.schema import meter_events
from tests.meter_events import event, usage_of


def count(database, table):
    with database.reading() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_replaying_events_changes_nothing(journal, database):
    assert journal.append([event(1), event(2)]).new == 2
    assert journal.append([event(2, completion_tokens=999), event(3)]).new == 1
    assert count(database, meter_events) == 3
    (total,) = usage_of(journal, 0, 1 << 50)
    assert total.completion_tokens == 60


def test_an_id_twice_in_one_batch_counts_once_and_the_first_is_kept(journal):
    assert journal.append([event(1, completion_tokens=7), event(1, completion_tokens=8)]).new == 1
    assert usage_of(journal, 0, 1 << 50)[0].completion_tokens == 7


def test_every_field_of_an_event_comes_back(journal, database):
    written = event(1, queue_ms=None, ttft_ms=None, undelivered_tokens=3, is_stream=False, tenant="é 通义")
    journal.append([written])
    with database.reading() as connection:
        row = connection.execute(select(*(meter_events.c[name] for name in written.__slots__))).mappings().one()
    assert MeterEvent(**row) == written


@pytest.mark.parametrize("model", ["a\0b", "\ud800", "x" * 100_000, "\U0001f600" * 600])
def test_no_text_of_a_client_can_hold_up_the_batch(journal, model):
    assert journal.append([event(1, model=model), event(2)]).new == 2


def test_nothing_to_append_is_fine(journal):
    assert journal.append([]).new == 0
    journal.append_readings([])


def test_intervals_are_half_open(journal):
    journal.append([event(n, arrived_ms=at) for n, at in enumerate([999, 1000, 1999, 2000])])
    (total,) = usage_of(journal, 1000, 2000)
    assert total.requests == 2


def test_usage_is_summed_by_what_was_asked_for(journal):
    journal.append(
        [
            event(1, tenant="a", key="k1", model="m"),
            event(2, tenant="a", key="k2", model="m"),
            event(3, tenant="b", key="k3", model="m", outcome="queue_full", flag="none"),
        ]
    )
    assert {(s.tenant, s.key, s.model, s.requests) for s in usage_of(journal, 0, 1 << 50, {"tenant"})} == {
        ("a", "", "", 2),
        ("b", "", "", 1),
    }
    assert {s.key for s in usage_of(journal, 0, 1 << 50, {"key", "model"}, tenant="a")} == {"k1", "k2"}


def test_sums_beyond_32_bits_are_exact(journal):
    big = 2**53 + 1
    journal.append([event(1, prompt_tokens=big, cached_tokens=0), event(2, prompt_tokens=2, cached_tokens=0)])
    assert usage_of(journal, 0, 1 << 50)[0].prompt_tokens == big + 2


def test_a_tenant_is_known_by_its_events_too(journal):
    assert not journal.knows_tenant("acme")
    journal.append([event(1, tenant="acme")])
    assert journal.knows_tenant("acme")
