"""Readings and events by worker, on every database."""

import pytest

from gateway.core.usage import Part, parts_to_json
from gateway.ports.journal import EngineReading
from gateway.ports.work import UnderWay, Work
from gateway.stores.schema import engine_readings
from gateway.stores.sql_work import SqlWork
from tests.meter_events import event
from tests.sql.test_journal import count


@pytest.fixture
def work(database):
    return SqlWork(database)


def test_a_workers_usage_goes_by_the_time_its_requests_ended(journal, work):
    journal.append(
        [
            event(1, worker="w1", arrived_ms=1, ended_ms=100, undelivered_tokens=4),
            event(2, worker="w2", arrived_ms=1, ended_ms=100),
            event(3, worker="w1", arrived_ms=1, ended_ms=200),
            event(4, worker="", arrived_ms=1, ended_ms=100),
        ]
    )
    assert work.work(0, 200) == {"w1": Work(1, 10, 20, 4), "w2": Work(1, 10, 20, 0)}
    assert work.work(100, 201, "w1") == {"w1": Work(2, 20, 40, 4)}
    assert work.work(201, 300, "w1") == {}


def reading(read_ms, *, worker="w1", started_ms=0, tokens=0):
    return EngineReading(
        worker=worker,
        pool="p",
        started_ms=started_ms,
        read_ms=read_ms,
        prompt_tokens=tokens,
        completion_tokens=2 * tokens,
        probe_prompt_tokens=1,
        probe_completion_tokens=1,
    )


def test_the_last_reading_of_each_engine_process_is_found(journal, database, work):
    late = reading(500, worker="w2", started_ms=400, tokens=9)
    journal.append_readings([reading(10, tokens=1), reading(20, tokens=2), reading(30, tokens=3), late])
    journal.append_readings([reading(20, tokens=2)])
    assert count(database, engine_readings) == 4
    assert work.readings_at(25) == [reading(20, tokens=2)]
    assert work.readings_at(500) == [reading(30, tokens=3), late]
    assert work.readings_at(9) == []


def test_readings_may_be_asked_for_some_engines_only(journal, work):
    journal.append_readings([reading(at, worker=who, tokens=at) for at in (10, 20, 30) for who in ("w1", "w2")])
    assert work.readings_at(25, [("w2", 0), ("w3", 0), ("w1", 7)]) == [reading(20, worker="w2", tokens=20)]
    assert work.readings_at(25, []) == []


def test_prompts_that_an_engine_counts_more_often_are_summed_up(journal, work):
    journal.append([event(1, choices=3, arrived_ms=1, ended_ms=100), event(2, arrived_ms=1, ended_ms=100)])
    assert work.work(0, 200)["w1"].choices_prompt_tokens == 20


def test_endings_are_told_apart_by_what_an_engine_may_have_done_for_nobody(journal, work):
    times = {"arrived_ms": 1, "ended_ms": 100}
    journal.append(
        [
            event(1, outcome="client_gone", flag="delivered", **times),
            event(2, outcome="upstream_failed", flag="estimated", **times),
            event(3, outcome="client_gone", flag="none", **times),
            event(4, outcome="engine_refused", flag="none", **times),
            event(5, attempts=4, **times),
        ]
    )
    found = work.work(0, 200)["w1"]
    assert (found.requests, found.cut_requests, found.unanswered_requests, found.retries) == (5, 2, 1, 3)


def test_what_is_under_way_had_left_the_line_and_has_not_ended(journal, work):
    times = {"arrived_ms": 1000, "queue_ms": 500, "ttft_ms": 700, "ended_ms": 3000}
    journal.append(
        [
            event(1, **times, choices=2, undelivered_tokens=1),
            event(2, **{**times, "queue_ms": None, "ttft_ms": None}),
            event(3, **times, is_stream=False),
            event(4, **times, worker="w2"),
        ]
    )
    stream = UnderWay(begun_ms=1500, first_ms=1700, ended_ms=3000, prompt_tokens=20, completion_tokens=21)
    at_once = UnderWay(begun_ms=1000, first_ms=None, ended_ms=3000, prompt_tokens=10, completion_tokens=20)
    whole = UnderWay(begun_ms=1500, first_ms=None, ended_ms=3000, prompt_tokens=10, completion_tokens=20)
    assert sorted(work.under_way("w1", 2000), key=repr) == sorted([stream, at_once, whole], key=repr)
    assert work.under_way("w1", 1200) == [at_once]
    assert work.under_way("w1", 3001) == work.under_way("w1", 1000) == []


def test_the_parts_of_a_continued_stream_count_where_and_when_they_were_made(journal, work):
    parts = parts_to_json([Part("w1", 50, 10, 7), Part("w2", 80, 17, 5)])
    made = {"prompt_tokens": 10, "cached_tokens": 0, "completion_tokens": 40, "attempts": 3}
    carried = {"continued": 2, "carried_tokens": 12, "carried_by": parts}
    journal.append([event(1, worker="w3", arrived_ms=1, ended_ms=100, **made, **carried)])
    found = work.work(0, 200)
    assert {name: (each.carried_prompt_tokens, each.carried_completion_tokens) for name, each in found.items()} == {
        "w1": (10, 7),
        "w2": (17, 5),
        "w3": (12, -12),
    }
    assert found["w3"].retries == 0
    assert list(work.work(60, 90)) == ["w2"]
    assert work.work(0, 200, "w1")["w1"] == found["w1"]
