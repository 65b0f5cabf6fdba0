"""How every Roster takes workers that fail, in memory and over Redis: what the router sees of it, and people."""

from dataclasses import replace

import pytest

from gateway.core.health import HealthRules, HealthState, WorkerFault
from gateway.core.roster import WorkerState
from gateway.core.routing import choose, slots
from tests.conformance.queues import until
from tests.conformance.rosters import HandClock, beat, open_roster

RULES = HealthRules(suspect_s=5.0, ejection_s=10.0, slow_start_s=20.0)
LEASE_S, REFRESH_S = 600.0, 0.05
MODEL = "Qwen/Qwen3-0.6B"


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def roster(request, clock):
    url = None if request.param == "memory" else request.getfixturevalue("redis_url")
    async with open_roster(request.param, url, clock, lease_s=LEASE_S, health=RULES) as roster:
        await roster.beat(beat("w1", max_seqs=64))
        await roster.beat(beat("w2", max_seqs=64))
        yield roster


def view(roster, worker="w1"):
    return next(view for view in roster.views("qwen") if view.id == worker)


def figures(roster, worker="w1"):
    return next(of for of in roster.figures() if of.worker == worker)


def eject(roster, worker="w1"):
    for _ in range(RULES.faults_in_row):
        roster.suspect(worker, WorkerFault.UNREACHABLE)


def chosen(roster):
    """Who gets requests now, however often it is asked."""
    return {one.id for _ in range(40) if (one := choose(MODEL, 1, 1, roster.views("qwen")))}


async def test_a_worker_whose_beats_are_well_but_which_cannot_be_reached_from_here_is_ejected(roster, clock):
    eject(roster)
    await roster.beat(beat("w1", max_seqs=64))
    assert (view(roster).is_suspect, view(roster).is_ejected, chosen(roster)) == (True, True, {"w2"})
    assert slots(roster.views("qwen")) == 64, "the line hands out no slots that nobody serves"
    of = figures(roster)
    assert (of.health, of.ejections, of.faults[WorkerFault.UNREACHABLE]) == (HealthState.EJECTED, 1, 5)
    assert of.reason == "5 faults in a row, the last: it cannot be reached"
    clock.advance(4)
    assert 6 <= figures(roster).left_s <= 8


async def test_what_an_ejected_worker_still_has_takes_no_slot_of_the_others(roster):
    with roster.working("w1", 100) as first, roster.working("w1", 100):
        eject(roster)
        assert slots(roster.views("qwen")) == 66
        first.end()
        assert slots(roster.views("qwen")) == 65
    assert slots(roster.views("qwen")) == 64


async def test_a_request_that_only_ejected_workers_can_serve_is_given_to_one_at_once(roster):
    eject(roster)
    assert choose(MODEL, 1, 1, roster.views("qwen"), tried=["w2"]).id == "w1"


async def test_it_comes_back_through_one_request_at_a_time(roster, clock):
    eject(roster)
    clock.advance(RULES.ejection_s * 1.2)
    assert (view(roster).is_suspect, view(roster).free_seqs) == (False, 1)
    assert figures(roster).health is HealthState.HALF_OPEN
    with roster.working("w1", 100, 10) as trial:
        assert view(roster).free_seqs == 0
        trial.prefilled()
        assert view(roster).credit_seqs == 7
    roster.trust("w1")
    assert (figures(roster).health, figures(roster).left_s) == (HealthState.TRUSTED, None)
    assert (figures(roster).first_tokens, figures(roster).ttft_s) == (1, 0.0)
    clock.advance(RULES.slow_start_s)
    assert view(roster).credit_seqs == 64


async def test_it_stays_out_while_it_does_not_even_answer(roster, clock):
    assert list(roster.returning(60.0)) == []
    eject(roster)
    assert list(roster.returning(9.0)) == []
    assert [one.id for one in roster.returning(60.0)] == ["w1"]
    clock.advance(9.0)
    roster.keep_ejected("w1", WorkerFault.UNREACHABLE)
    roster.keep_ejected("w2", WorkerFault.UNREACHABLE)
    roster.keep_ejected("unknown", WorkerFault.UNREACHABLE)
    clock.advance(RULES.ejection_s * 1.2)
    assert (view(roster).is_ejected, view(roster, "w2").is_suspect) == (True, False)
    clock.advance(RULES.ejection_s * 1.2)
    assert not view(roster).is_ejected


async def test_who_waits_hears_when_a_trial_may_begin(roster, clock):
    eject(roster)
    roster.views("qwen")
    heard = []
    roster.watch(heard.append)
    clock.advance(RULES.ejection_s * 1.2)
    roster.views("qwen")
    assert set(heard) == {"qwen"}


async def test_a_worker_that_has_just_become_ready_gets_its_credit_by_and_by(roster, clock):
    await roster.beat(beat("w3", max_seqs=64, state=WorkerState.WARMING))
    await roster.beat(beat("w3", max_seqs=64))
    assert view(roster, "w3").credit_seqs == 7
    for _ in range(3):
        with roster.working("w3", 100, 10) as working:
            working.prefilled()
    assert view(roster, "w3").credit_seqs == 10
    clock.advance(RULES.slow_start_s / 2)
    assert view(roster, "w3").credit_seqs == 32
    clock.advance(RULES.slow_start_s / 2)
    assert view(roster, "w3").credit_seqs == 64


async def test_a_worker_that_was_ready_before_this_gateway_came_has_all_its_credit(roster):
    assert view(roster).credit_seqs == 64
    await roster.beat(beat("w1", max_seqs=64, state=WorkerState.DRAINING))
    await roster.beat(beat("w1", max_seqs=64))
    assert view(roster).credit_seqs == 64, "and one that was only cordoned is warm"


async def test_another_engine_in_place_of_an_ejected_one_is_tried_at_once(roster):
    await roster.beat(beat("w1", max_seqs=64, engine_started_ms=1))
    eject(roster)
    await roster.beat(beat("w1", max_seqs=64, engine_started_ms=2))
    assert (view(roster).is_suspect, view(roster).free_seqs) == (False, 1)


async def test_when_the_others_go_an_ejected_worker_serves_again(roster):
    eject(roster)
    await roster.forget("w2")
    assert (view(roster).is_suspect, view(roster).credit_seqs) == (False, 7)
    assert chosen(roster) == {"w1"}


async def test_when_the_others_only_drain_an_ejected_worker_serves_again(roster):
    eject(roster)
    await roster.beat(beat("w2", max_seqs=64, state=WorkerState.DRAINING))
    assert chosen(roster) == {"w1"}


async def test_a_lone_worker_that_fails_everything_is_still_asked(roster):
    await roster.forget("w2")
    eject(roster)
    assert chosen(roster) == {"w1"}


async def test_a_worker_that_comes_again_under_its_name_has_a_clean_sheet(roster):
    eject(roster)
    await roster.forget("w1")
    await roster.beat(beat("w1", max_seqs=64))
    assert not view(roster).is_suspect
    assert sum(figures(roster).faults.values()) == 0


@pytest.mark.redis
async def test_what_one_gateway_holds_against_a_worker_is_its_own(redis_url, clock):
    options = {"lease_s": LEASE_S, "refresh_s": REFRESH_S, "health": replace(RULES, faults_in_row=1)}
    async with (
        open_roster("redis", redis_url, clock, **options) as left,
        open_roster("redis", redis_url, clock, **options) as right,
    ):
        for worker in ("w1", "w2"):
            await left.beat(beat(worker, max_seqs=64))

        async def is_heard() -> bool:
            return len(right.views("qwen")) == 2

        await until(is_heard)
        left.suspect("w1", WorkerFault.UNREACHABLE)
        with left.working("w2", 1):

            async def is_told() -> bool:
                return view(right, "w2").others_in_flight == 1

            await until(is_told)
        assert (view(left).is_ejected, view(right).is_ejected, view(right).credit_seqs) == (True, False, 64)
        clock.advance(RULES.ejection_s * 1.2)
        with right.working("w1", 1), right.working("w1", 1):

            async def is_seen() -> bool:
                return view(left).others_in_flight == 2

            await until(is_seen)
            assert view(left).free_seqs == 1, "what others have on it does not block this gateway's trial"
