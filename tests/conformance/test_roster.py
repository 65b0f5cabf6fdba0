"""What every Roster does, in memory and over Redis."""

import pytest

from gateway.core.engine_load import EngineLoad
from gateway.core.health import HealthRules
from gateway.core.orders import Order
from gateway.core.roster import WorkerState
from gateway.core.routing import rank, slots
from tests.conformance.rosters import HandClock, beat, open_roster

LEASE_S, SUSPECT_S = 4.0, 5.0
RULES = HealthRules(suspect_s=SUSPECT_S)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def roster(request, clock):
    url = None if request.param == "memory" else request.getfixturevalue("redis_url")
    async with open_roster(request.param, url, clock, lease_s=LEASE_S, health=RULES) as roster:
        yield roster


def view(roster, worker: str = "w1", pool: str = "qwen"):
    return next(view for view in roster.views(pool) if view.id == worker)


async def test_a_worker_is_listed_with_what_it_last_said(roster):
    await roster.beat(beat(state=WorkerState.LOADING))
    await roster.beat(beat(state=WorkerState.READY, kv_cache_usage=0.5))
    [worker] = roster.views("qwen")
    assert (worker.id, worker.state, worker.url, worker.engine_key) == (
        "w1",
        WorkerState.READY,
        "http://w1:8000",
        "sk-engine",
    )
    assert (worker.max_seqs, worker.kv_cache_usage, worker.models) == (8, 0.5, frozenset({"Qwen/Qwen3-0.6B"}))
    assert [one.kv_cache_usage for one in roster.beats()] == [0.5]


async def test_pools_are_apart_and_a_worker_that_changes_pools_is_in_one(roster):
    await roster.beat(beat("w1", "qwen"))
    await roster.beat(beat("w2", "coder"))
    await roster.beat(beat("w1", "coder"))
    assert list(roster.views("qwen")) == []
    assert {worker.id for worker in roster.views("coder")} == {"w1", "w2"}


async def test_a_worker_that_falls_silent_is_listed_until_its_lease_ends(roster, clock):
    await roster.beat(beat("silent"))
    clock.advance(LEASE_S / 2)
    await roster.beat(beat("lively"))
    clock.advance(LEASE_S / 2 - 0.01)
    assert {worker.id for worker in roster.views("qwen")} == {"silent", "lively"}
    clock.advance(0.02)
    assert {worker.id for worker in roster.views("qwen")} == {"lively"}
    assert [one.worker for one in roster.beats()] == ["lively"]


async def test_every_beat_renews_the_lease(roster, clock):
    for _ in range(5):
        await roster.beat(beat())
        clock.advance(LEASE_S - 0.1)
    assert len(roster.views("qwen")) == 1


async def test_a_forgotten_worker_is_gone_until_it_beats_again(roster):
    await roster.beat(beat())
    await roster.forget("w1")
    await roster.forget("unknown")
    assert list(roster.views("qwen")) == []
    await roster.beat(beat())
    assert len(roster.views("qwen")) == 1


async def test_a_cordoned_worker_gets_nothing_keeps_what_it_has_and_serves_again_when_it_may(roster):
    await roster.beat(beat("w1"))
    await roster.beat(beat("w2"))
    with roster.working("w1", 100):
        roster.order("w1", Order.CORDON)
        assert (view(roster).state, view(roster).in_flight) == (WorkerState.CORDONED, 1)
        assert [worker.id for worker in rank("Qwen/Qwen3-0.6B", 1, roster.views("qwen"))] == ["w2"]
        assert slots(roster.views("qwen")) == 8
        await roster.beat(beat("w1"))
        assert {one.worker: one.state.value for one in roster.beats()} == {"w1": "cordoned", "w2": "ready"}
    roster.order("w1", Order.SERVE)
    assert (view(roster).state, slots(roster.views("qwen"))) == (WorkerState.READY, 16)


async def test_a_worker_that_is_to_drain_drains_for_the_router_before_it_says_so(roster):
    await roster.beat(beat())
    roster.order("w1", Order.DRAIN)
    assert (view(roster).state, roster.standing("w1").order) == (WorkerState.DRAINING, Order.DRAIN)


async def test_a_cordon_hides_no_other_state(roster):
    await roster.beat(beat(state=WorkerState.LOADING))
    roster.order("w1", Order.CORDON)
    assert view(roster).state is WorkerState.LOADING
    await roster.beat(beat())
    assert view(roster).state is WorkerState.CORDONED


async def test_an_order_outlives_a_cut_and_ends_a_minute_after_its_worker(roster, clock):
    await roster.beat(beat())
    roster.order("w1", Order.CORDON)
    for _ in range(30):  # a minute and a half of beats
        clock.advance(3)
        await roster.beat(beat())
        roster.beats()
    clock.advance(50)
    assert not roster.beats()
    await roster.beat(beat())
    assert [one.state for one in roster.beats()] == [WorkerState.CORDONED]
    clock.advance(61)
    assert not roster.beats()
    assert roster.standing("w1").order is Order.SERVE
    await roster.beat(beat())
    assert view(roster).state is WorkerState.READY


async def test_a_worker_that_said_goodbye_begins_without_an_order(roster):
    await roster.beat(beat())
    roster.order("w1", Order.DRAIN)
    await roster.forget("w1")
    await roster.beat(beat())
    assert view(roster).state is WorkerState.READY


async def test_own_work_counts_at_once_and_only_while_it_lasts(roster):
    await roster.beat(beat())
    with roster.working("w1", 100), roster.working("w1", 30):
        assert (view(roster).outstanding_tokens, view(roster).in_flight) == (130, 2)
    assert (view(roster).outstanding_tokens, view(roster).in_flight) == (0, 0)


async def test_own_work_outlives_the_lease_of_its_worker(roster, clock):
    await roster.beat(beat())
    with roster.working("w1", 100):
        clock.advance(LEASE_S + 1)
        assert list(roster.views("qwen")) == []
        await roster.beat(beat())
        assert view(roster).outstanding_tokens == 100


async def test_prompt_tokens_leave_the_outstanding_prefill_with_the_first_token(roster):
    await roster.beat(beat(max_batched_tokens=1000))
    with roster.working("w1", 500, 300) as first, roster.working("w1", 900, 700):
        assert (view(roster).prefill_tokens, view(roster).prefill_room) == (1000, 1000)
        first.prefilled()
        first.prefilled()
        assert (view(roster).prefill_tokens, view(roster).in_flight, view(roster).outstanding_tokens) == (700, 2, 1400)
    assert (view(roster).prefill_tokens, view(roster).in_flight, view(roster).outstanding_tokens) == (0, 0, 0)


async def test_work_that_ends_twice_ends_once(roster):
    await roster.beat(beat())
    with roster.working("w1", 100, 100) as working, roster.working("w1", 30, 30):
        working.end()
        assert (view(roster).outstanding_tokens, view(roster).prefill_tokens, view(roster).in_flight) == (30, 30, 1)
        working.prefilled()
    assert (view(roster).outstanding_tokens, view(roster).prefill_tokens, view(roster).in_flight) == (0, 0, 0)


async def test_the_time_to_the_first_token_is_learnt_and_predicted(roster, clock):
    await roster.beat(beat(max_batched_tokens=1000))
    with roster.working("w1", 1000, 1000) as working:
        clock.advance(2.0)
        working.prefilled()
    with roster.working("w1", 500, 500) as first, roster.working("w1", 500, 500) as second:
        assert (first.predicted_ttft_s, second.predicted_ttft_s) == (1.5, 2.0)
        clock.advance(60.0)
        first.prefilled(is_observed=False)
    with roster.working("w1", 500, 500) as third:
        assert third.predicted_ttft_s == 1.5


async def test_credit_starts_at_the_engines_limits_and_is_cut_when_it_queues(roster, clock):
    await roster.beat(beat(max_seqs=20))
    assert view(roster).credit_seqs == slots(roster.views("qwen")) == 20
    clock.advance(1)
    await roster.beat(beat(max_seqs=20, waiting=3))
    assert view(roster).credit_seqs == slots(roster.views("qwen")) == 14


async def test_an_answers_head_cuts_credit_at_once(roster):
    await roster.beat(beat(max_seqs=20))
    roster.hear("w1", EngineLoad(waiting=9, kv_cache_usage=0.5))
    roster.hear("unknown", EngineLoad(waiting=9, kv_cache_usage=0.5))
    assert view(roster).credit_seqs == 14


async def test_an_engine_that_starts_again_has_its_credit_anew(roster):
    await roster.beat(beat(max_seqs=20, engine_started_ms=1, preemptions_total=5))
    await roster.beat(beat(max_seqs=20, engine_started_ms=1, preemptions_total=6))
    assert view(roster).credit_seqs == 14
    await roster.beat(beat(max_seqs=20, engine_started_ms=2, preemptions_total=0))
    assert view(roster).credit_seqs == 20


async def test_who_watches_hears_of_the_pool_when_a_worker_may_have_room(roster):
    heard = []
    await roster.beat(beat())
    roster.watch(heard.append)
    with roster.working("w1", 100, 100) as working:
        assert heard == [], "a request that begins makes no room"
        working.prefilled()
        assert heard == ["qwen"]
    assert heard == ["qwen", "qwen"]


async def test_striking_a_worker_off_leaves_all_others_in_place(roster):
    for n in range(5):
        await roster.beat(beat(f"w{n}"))
    assert len(roster.views("qwen")) == 5
    for gone, left in (("w1", {"w0", "w2", "w3", "w4"}), ("w4", {"w0", "w2", "w3"}), ("w0", {"w2", "w3"})):
        await roster.forget(gone)
        assert {worker.id for worker in roster.views("qwen")} == left
        with roster.working("w3", 7):
            assert view(roster, "w3").outstanding_tokens == 7


async def test_what_an_engine_reports_beyond_our_own_is_the_others(roster):
    await roster.beat(beat())
    with roster.working("w1", 100):
        await roster.beat(beat(running=3, waiting=2))
        assert view(roster).others_in_flight == 4
        with roster.working("w1", 100):
            assert (view(roster).in_flight, view(roster).others_in_flight) == (2, 4)
        await roster.beat(beat(running=0))
        assert view(roster).others_in_flight == 0


async def test_a_suspect_ranks_last_until_it_is_trusted(roster):
    await roster.beat(beat("w1"))
    await roster.beat(beat("w2"))
    roster.suspect("w1")
    roster.suspect("unknown")
    assert [worker.id for worker in rank("Qwen/Qwen3-0.6B", 1, roster.views("qwen"))] == ["w2", "w1"]
    roster.trust("w1")
    assert not view(roster, "w1").is_suspect


async def test_a_suspicion_ends_by_itself(roster, clock):
    await roster.beat(beat())
    roster.suspect("w1")
    clock.advance(LEASE_S - 0.1)
    await roster.beat(beat())
    assert view(roster).is_suspect
    clock.advance(SUSPECT_S - LEASE_S + 0.2)
    assert not view(roster).is_suspect


async def test_views_of_what_did_not_change_are_not_made_anew(roster):
    for n in range(100):
        await roster.beat(beat(f"w{n}"))
    before = {worker.id: worker for worker in roster.views("qwen")}
    with roster.working("w7", 1):
        after = {worker.id: worker for worker in roster.views("qwen")}
    assert {name for name in after if after[name] is not before[name]} == {"w7"}


async def test_the_engines_key_is_never_shown(roster):
    await roster.beat(beat())
    assert "sk-engine" not in repr((roster, roster.views("qwen"), roster.beats()))
