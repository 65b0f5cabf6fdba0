"""The engines' counters against the Journal, to the last token."""

from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.finance.reconcile import Line, reconcile
from gateway.ports.journal import EngineReading
from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql import SqlJournal
from tests.meter_events import event

UTC = ZoneInfo("UTC")


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


def served(number, ended_ms, prompt=10, completion=20, undelivered=0, worker="w1"):
    return event(
        number,
        worker=worker,
        ended_ms=ended_ms,
        prompt_tokens=prompt,
        cached_tokens=0,
        completion_tokens=completion,
        undelivered_tokens=undelivered,
    )


def test_an_engine_that_did_nothing_else_has_no_residue(journal):
    journal.append([served(1, 2000), served(2, 3000, undelivered=3)])
    journal.append_readings([reading(1500, 8, 4, (8, 4)), reading(4000, 28, 47, (8, 4))])
    result = reconcile(journal, 0, 10_000, UTC)
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
    totals = reconcile(journal, 0, 10_000, UTC).totals()
    assert (totals["residue_prompt_tokens"], totals["residue_completion_tokens"]) == (0, 15)


def test_an_engine_that_started_again_is_counted_from_zero_again(journal):
    journal.append([served(1, 2000), served(2, 6000)])
    journal.append_readings([reading(3000, 10, 20), reading(7000, 10, 20, started_ms=5000)])
    lines = reconcile(journal, 0, 10_000, UTC).lines
    assert [(line.engine_started_ms, line.requests, line.residue_completion_tokens) for line in lines] == [
        (1000, 1, 0),
        (5000, 1, 0),
    ]


def test_intervals_that_adjoin_split_an_engines_life_without_a_seam(journal):
    journal.append([served(number, 2000 + number * 100) for number in range(30)])
    journal.append_readings([reading(2000 + n * 250, 10 * n, 20 * n) for n in range(14)])
    halves = [reconcile(journal, 0, 3333, UTC), reconcile(journal, 3333, 9000, UTC)]
    whole = reconcile(journal, 0, 9000, UTC)
    assert halves[0].lines[0].to_ms == halves[1].lines[0].from_ms
    for name, total in whole.totals().items():
        assert total == sum(half.totals()[name] for half in halves)


def test_what_no_reading_covers_is_shown_apart(journal):
    journal.append([served(1, 2000), served(2, 8000), served(3, 2000, worker="unread")])
    journal.append_readings([reading(4000, 10, 20)])
    result = reconcile(journal, 0, 10_000, UTC)
    assert [(line.worker, line.from_ms, line.to_ms, line.requests) for line in result.uncovered] == [
        ("unread", 0, 10_000, 1),
        ("w1", 4000, 10_000, 1),
    ]
    assert result.totals()["residue_completion_tokens"] == 0


def test_an_engine_that_was_not_read_in_the_interval_has_no_line(journal):
    journal.append_readings([reading(2000, 10, 20)])
    assert reconcile(journal, 5000, 10_000, UTC).lines == ()


def test_denials_are_nobodys_work(journal):
    journal.append([event(1, worker="", prompt_tokens=0, cached_tokens=0, completion_tokens=0)])
    result = reconcile(journal, 0, 1 << 50, UTC)
    assert (result.lines, result.uncovered) == ((), ())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    result = reconcile(journal, 0, 101, UTC)
    counted = (*result.lines, *result.uncovered)
    assert sum(line.requests for line in counted) == len(events)
    assert sum(line.metered_completion_tokens for line in counted) == 20 * len(events)
    database.close()
