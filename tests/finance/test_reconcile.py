"""The engines' counters against the Journal, to the last token."""

from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.finance.reconcile import compare, reconcile
from gateway.finance.residue import Alarm, Line, Residue
from gateway.ports.journal import EngineReading
from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_work import SqlWork
from tests.meter_events import event

UTC = ZoneInfo("UTC")


def compared(journal, from_ms, to_ms, zone):
    return reconcile(SqlWork(journal._database), from_ms, to_ms, zone)


def reading(read_ms, prompt, completion, probes=(0, 0), worker="w1", started_ms=1000):
    return EngineReading(
        worker=worker,
        pool="qwen3",
        started_ms=started_ms,
        read_ms=read_ms,
        prompt_tokens=prompt,
        completion_tokens=completion,
        probe_prompt_tokens=probes[0],
        probe_completion_tokens=probes[1],
    )


def served(number, ended_ms, prompt=10, completion=20, undelivered=0, worker="w1", **fields):
    return event(
        number,
        worker=worker,
        ended_ms=ended_ms,
        **{"arrived_ms": ended_ms, "ttft_ms": 0, **fields},
        prompt_tokens=prompt,
        cached_tokens=0,
        completion_tokens=completion,
        undelivered_tokens=undelivered,
    )


def test_an_engine_that_did_nothing_else_has_no_residue(journal):
    journal.append([served(1, 2000), served(2, 3000, undelivered=3)])
    journal.append_readings([reading(1500, 8, 4, (8, 4)), reading(4000, 28, 47, (8, 4))])
    result = compared(journal, 0, 10_000, UTC)
    assert result.lines == (
        Line(
            worker="w1",
            pool="qwen3",
            engine_started_ms=1000,
            from_ms=1000,
            to_ms=4000,
            requests=2,
            engine_prompt_tokens=28,
            engine_completion_tokens=47,
            probe_prompt_tokens=8,
            probe_completion_tokens=4,
            metered_prompt_tokens=20,
            metered_completion_tokens=40,
            undelivered_tokens=3,
        ),
    )
    assert (result.lines[0].residue_prompt_tokens, result.lines[0].residue_completion_tokens) == (0, 0)
    assert result.uncovered == ()


def test_what_the_engine_made_after_the_client_had_left_is_the_residue(journal):
    journal.append([served(1, 2000, completion=20)])
    journal.append_readings([reading(4000, 10, 35)])
    totals = compared(journal, 0, 10_000, UTC).totals()
    assert (totals["residue_prompt_tokens"], totals["residue_completion_tokens"]) == (0, 15)


def test_an_engine_that_started_again_is_counted_from_zero_again(journal):
    journal.append([served(1, 2000), served(2, 6000)])
    journal.append_readings([reading(3000, 10, 20), reading(7000, 10, 20, started_ms=5000)])
    lines = compared(journal, 0, 10_000, UTC).lines
    assert [(line.engine_started_ms, line.requests, line.residue_completion_tokens) for line in lines] == [
        (1000, 1, 0),
        (5000, 1, 0),
    ]


def test_intervals_that_adjoin_split_an_engines_life_without_a_seam(journal):
    journal.append([served(number, 2000 + number * 100) for number in range(30)])
    journal.append_readings([reading(2000 + n * 250, 10 * n, 20 * n) for n in range(14)])
    halves = [compared(journal, 0, 3333, UTC), compared(journal, 3333, 9000, UTC)]
    whole = compared(journal, 0, 9000, UTC)
    assert halves[0].lines[0].to_ms == halves[1].lines[0].from_ms
    for name, total in whole.totals().items():
        assert total == sum(half.totals()[name] for half in halves)


def test_what_no_reading_covers_is_shown_apart(journal):
    journal.append([served(1, 2000), served(2, 8000), served(3, 2000, worker="unread")])
    journal.append_readings([reading(4000, 10, 20)])
    result = compared(journal, 0, 10_000, UTC)
    assert [(line.worker, line.from_ms, line.to_ms, line.requests) for line in result.uncovered] == [
        ("unread", 0, 10_000, 1),
        ("w1", 4000, 10_000, 1),
    ]
    assert result.totals()["residue_completion_tokens"] == 0


def test_an_engine_that_was_not_read_in_the_interval_has_no_line(journal):
    journal.append_readings([reading(2000, 10, 20)])
    assert compared(journal, 5000, 10_000, UTC).lines == ()


def test_denials_are_nobodys_work(journal):
    journal.append([event(1, worker="", arrived_ms=5, prompt_tokens=0, cached_tokens=0, completion_tokens=0)])
    result = compared(journal, 0, 1 << 50, UTC)
    assert (result.lines, result.uncovered) == ((), ())


def test_a_prompt_that_an_engine_counts_once_for_each_choice_is_explained(journal):
    journal.append([served(1, 2000, prompt=10, completion=20, choices=4)])
    journal.append_readings([reading(4000, 40, 20)])
    [line] = compared(journal, 0, 10_000, UTC).lines
    assert (line.residue_prompt_tokens, line.choices_prompt_tokens, line.unexplained_prompt_tokens) == (30, 30, 0)


def streamed(number, begun_ms, first_ms, ended_ms, completion, **fields):
    """Make a stream that waited for a second in line before an engine had it."""
    times = {"arrived_ms": begun_ms - 1000, "queue_ms": 1000, "ttft_ms": first_ms - begun_ms + 1000}
    return served(number, ended_ms, completion=completion, is_stream=True, **times, **fields)


def test_what_is_under_way_at_the_edges_is_explained(journal):
    """Streams run at an even pace: of the one cut by the end three quarters were made, of the first one a half."""
    journal.append([streamed(1, 9000, 10_000, 20_000, 100), streamed(2, 21_000, 22_000, 26_000, 40, choices=2)])
    journal.append_readings([reading(15_000, 10, 50), reading(25_000, 30, 130)])
    [line] = compared(journal, 15_000, 25_001, UTC).lines
    assert (line.from_ms, line.to_ms, line.requests) == (15_000, 25_000, 1)
    assert (line.residue_prompt_tokens, line.residue_completion_tokens) == (10, -20)
    assert (line.in_flight_prompt_tokens, line.in_flight_completion_tokens) == (10, -20)
    assert (line.unexplained_prompt_tokens, line.unexplained_completion_tokens) == (0, 0)


def test_a_stream_that_waits_in_line_or_computes_its_prompt_at_the_edge_is_not_made_yet(journal):
    journal.append([streamed(1, 9000, 10_000, 20_000, 100)])
    for at_ms in (8500, 9500):
        journal.append_readings([reading(at_ms, 0, 0)])
        [line] = compared(journal, 0, at_ms + 1, UTC).lines
        assert (line.in_flight_prompt_tokens, line.in_flight_completion_tokens) == (0, 0)


def test_a_whole_answer_under_way_at_the_edge_is_taken_to_come_evenly(journal):
    whole = {"is_stream": False, "arrived_ms": 10_000, "queue_ms": 0, "ttft_ms": 10_000}
    journal.append([served(1, 20_000, completion=100, **whole)])
    journal.append_readings([reading(13_000, 10, 30)])
    [line] = compared(journal, 0, 13_001, UTC).lines
    assert (line.unexplained_prompt_tokens, line.unexplained_completion_tokens) == (0, 0)


def test_what_events_can_count_but_not_measure_is_named(journal):
    journal.append(
        [
            served(1, 2000, outcome="client_gone", flag="delivered"),
            served(2, 2000, prompt=0, completion=0, outcome="client_gone", flag="none"),
            served(3, 2000, prompt=0, completion=0, outcome="engine_refused", flag="none"),
            served(4, 2000, attempts=3),
        ]
    )
    journal.append_readings([reading(4000, 29, 47)])
    result = compared(journal, 0, 10_000, UTC)
    [line], [residue] = result.lines, result.residues()
    assert (line.cut_requests, line.unanswered_requests, line.retries) == (1, 1, 2)
    assert (residue.tokens, residue.engine_tokens) == (9 + 7, 76)
    for words in ("9 of prompts and 7 of answers", "1 answers cut off", "1 requests that ended", "2 tries on other"):
        assert words in residue.explain()


def test_more_metered_than_made_is_said_to_be_so(journal):
    journal.append([served(1, 2000)])
    journal.append_readings([reading(4000, 10, 5)])
    [residue] = compared(journal, 0, 10_000, UTC).residues()
    assert residue.tokens == 15
    assert "more was metered than made" in residue.explain()


@pytest.mark.parametrize(
    ("made", "metered", "is_due"),
    [
        (1_000_000, 999_000, False),
        (1_000_000, 998_999, True),
        (10**8, 10**8 - 10_000, False),
        (10**8, 10**8 - 10_001, True),
    ],
)
@pytest.mark.parametrize("journal", ["sqlite"], indirect=True)
def test_the_alarm_is_due_above_a_thousandth_or_ten_thousand_tokens(journal, made, metered, is_due):
    journal.append([served(1, 2000, prompt=0, completion=metered)])
    journal.append_readings([reading(4000, 0, made)])
    [residue] = compared(journal, 0, 10_000, UTC).residues()
    assert Alarm().is_due(residue) is is_due


def test_metered_without_anything_made_is_an_alarm():
    line = Line(
        worker="w1",
        from_ms=0,
        to_ms=1,
        requests=1,
        metered_prompt_tokens=1,
        metered_completion_tokens=0,
        undelivered_tokens=0,
    )
    assert Alarm().is_due(Residue("w1", [line]))
    assert Residue("w1", [line]).to_json()["unexplained_ratio"] is None


def test_readings_of_some_engines_are_those_among_all(journal):
    journal.append_readings([reading(at, at, at, worker=who) for at in (2000, 3000, 4000) for who in ("w1", "w2")])
    work = SqlWork(journal._database)
    everything = work.readings_at(3500)
    assert [(one.worker, one.read_ms) for one in everything] == [("w1", 3000), ("w2", 3000)]
    assert work.readings_at(3500, [("w2", 1000), ("w1", 999)]) == everything[1:]


def test_the_lines_of_some_engines_are_those_among_all(journal):
    journal.append([served(1, 2000), served(2, 2000, worker="w2")])
    journal.append_readings([reading(4000, 10, 20), reading(4000, 10, 25, worker="w2")])
    work = SqlWork(journal._database)
    assert compare(work, 0, 10_000, [("w2", 1000)]) == compare(work, 0, 10_000)[1:]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_event_is_in_exactly_one_line(data, tmp_path_factory):
    """Covered or not: the lines of an interval that holds all readings share all events out among them."""
    url = f"sqlite:///{tmp_path_factory.mktemp('reconcile') / 'sluice.db'}"
    migrate(url)
    database = Database(url)
    journal = SqlJournal(database)
    times = st.integers(0, 100)
    events = [
        served(number, at, worker=worker)
        for number, (at, worker) in enumerate(data.draw(st.lists(st.tuples(times, st.sampled_from(["w1", "w2"])))))
    ]
    readings = data.draw(
        st.lists(st.tuples(times, times, st.sampled_from(["w1", "w2"])).filter(lambda made: made[0] <= made[1]))
    )
    journal.append(events)
    journal.append_readings([reading(read, read, read, worker=who, started_ms=start) for start, read, who in readings])
    result = compared(journal, 0, 101, UTC)
    counted = (*result.lines, *result.uncovered)
    assert sum(line.requests for line in counted) == len(events)
    assert sum(line.metered_completion_tokens for line in counted) == 20 * len(events)
    database.close()
