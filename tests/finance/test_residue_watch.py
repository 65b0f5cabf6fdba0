"""The residue while it happens: what is looked at, what is shown, and that an alarm is told once."""

import pytest
import structlog

from gateway.finance.residue import Alarm
from gateway.finance.residue_watch import ResidueWatch, WatchRules
from gateway.stores.database import Database
from gateway.stores.sql_work import SqlWork
from tests.finance.test_reconcile import reading, served
from tests.waiting import until

RULES = WatchRules(every_s=0.01, window_s=100.0, lag_s=10.0, alarm=Alarm(0.001, 10))
NOW_MS = 1_000_000
WINDOW_MS = (NOW_MS - 110_000, NOW_MS - 10_000)

pytestmark = pytest.mark.parametrize("journal", ["sqlite"], indirect=True)


def watch_on(journal, engines=(("w1", 1000),)):
    return ResidueWatch(SqlWork(journal._database), lambda: engines, RULES, lambda: NOW_MS)


def read(journal, *made, worker="w1"):
    """Have an engine read at the beginning of the window, then at its middle and end."""
    times = (WINDOW_MS[0] - 1, NOW_MS - 60_000, WINDOW_MS[1] - 1)
    journal.append_readings([reading(at, 0, tokens, worker=worker) for at, tokens in zip(times, made, strict=False)])


async def test_what_nothing_explains_in_the_window_is_shown(journal):
    read(journal, 50, 90, 150)
    journal.append(
        [served(1, WINDOW_MS[0] - 5, 0, 50), served(2, NOW_MS - 70_000, 0, 40), served(3, NOW_MS - 50_000, 0, 55)]
    )
    watch = watch_on(journal)
    assert (watch.tokens(), watch.ratios()) == ({}, {})
    await watch.look()
    assert watch.tokens() == {"w1": 5}
    assert watch.ratios() == {"w1": 0.05}


async def test_what_came_after_the_window_is_left_for_later(journal):
    """Requests that are still under way, or not yet shipped, would look like residue."""
    read(journal, 50, 90)
    journal.append_readings([reading(NOW_MS - 5000, 0, 9000)])
    journal.append([served(1, NOW_MS - 70_000, 0, 40)])
    watch = watch_on(journal)
    await watch.look()
    assert watch.tokens() == {"w1": 0}


async def test_an_engine_that_is_gone_is_looked_at_for_another_window(journal):
    engines = [("w1", 1000)]
    now_ms = [NOW_MS]
    read(journal, 50, 90)
    watch = ResidueWatch(SqlWork(journal._database), lambda: engines, RULES, lambda: now_ms[0])
    await watch.look()
    assert watch.tokens() == {"w1": 40}
    engines.clear()
    now_ms[0] += 20_000
    await watch.look()
    assert watch.tokens() == {"w1": 40}
    now_ms[0] += 200_000
    await watch.look()
    assert watch.tokens() == {}
    assert repr(watch) == "<ResidueWatch [0 engines, 0 alarms]>"


async def test_an_alarm_is_told_once_with_its_explanation_and_so_is_its_end(journal):
    read(journal, 0, 500)
    watch = watch_on(journal)
    with structlog.testing.capture_logs() as logs:
        await watch.look()
        await watch.look()
        journal.append([served(1, NOW_MS - 70_000, 0, 500)])
        await watch.look()
        await watch.look()
    assert [entry["event"] for entry in logs] == ["residue_too_large", "residue_small_again"]
    assert (logs[0]["worker"], logs[0]["tokens"]) == ("w1", 500)
    assert "500 of answers are explained by nothing" in logs[0]["explanation"]


async def test_it_looks_by_itself_until_it_is_closed(journal):
    read(journal, 0, 500)
    watch = watch_on(journal)
    watch.start()
    await until(lambda: watch.tokens() == {"w1": 500})
    await watch.aclose()
    assert watch._looking.done()


async def test_without_the_database_it_says_so_once_and_looks_on(journal):
    rounds = []
    away = SqlWork(Database("postgresql://u:secret@127.0.0.1:1/x", timeout_s=1))
    watch = ResidueWatch(away, lambda: rounds.append(1) or [("w1", 1000)], RULES, lambda: NOW_MS)
    with structlog.testing.capture_logs() as logs:
        watch.start()
        await until(lambda: len(rounds) > 3)
        await watch.aclose()
    assert [entry["event"] for entry in logs] == ["residue_not_known"]
