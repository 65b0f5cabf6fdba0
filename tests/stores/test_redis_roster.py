"""Gateways that share one roster through Redis."""

from contextlib import asynccontextmanager

import pytest

from gateway.core.engine_load import EngineLoad
from gateway.core.orders import Order
from gateway.core.roster import WorkerState
from gateway.stores.redis_client import connect
from gateway.stores.redis_roster import SENT_TOLD_MAX, RedisRoster
from tests.conformance.queues import until
from tests.conformance.rosters import HandClock, beat, open_roster

pytestmark = pytest.mark.redis

LEASE_S, REFRESH_S = 2.0, 0.05


@asynccontextmanager
async def two_gateways(redis_url):
    clock, options = HandClock(), {"lease_s": LEASE_S, "refresh_s": REFRESH_S, "store_timeout_s": 0.3}
    async with (
        open_roster("redis", redis_url, clock, **options) as left,
        open_roster("redis", redis_url, clock, **options) as right,
    ):
        yield left, right, clock


def names(roster: RedisRoster) -> set[str]:
    return {view.id for view in roster.views("qwen")}


async def until_listed(roster: RedisRoster, *workers: str) -> None:
    async def is_so() -> bool:
        return names(roster) == set(workers)

    await until(is_so)


async def test_a_worker_that_beats_to_one_gateway_is_known_to_all(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1", running=3))
        await until_listed(right, "w1")
        assert right.views("qwen")[0].others_in_flight == 3
        assert right.views("qwen")[0].engine_key == "sk-engine"
        assert "sk-engine" not in repr(right)


async def test_a_gateway_that_starts_later_knows_the_workers_at_once(redis_url):
    async with two_gateways(redis_url) as (left, right, clock):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        async with open_roster("redis", redis_url, clock, lease_s=LEASE_S) as late:
            assert names(late) == {"w1"}


async def test_a_change_of_state_travels_with_the_next_beat(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        await left.beat(beat("w1", state=WorkerState.DRAINING))

        async def is_draining() -> bool:
            return right.views("qwen")[0].state is WorkerState.DRAINING

        await until(is_draining)


async def test_a_worker_forgotten_at_one_gateway_is_forgotten_at_all(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1"))
        await left.beat(beat("w2"))
        await until_listed(right, "w1", "w2")
        await right.forget("w1")
        await until_listed(left, "w2")


async def test_a_worker_known_through_another_gateway_has_a_lease_too(redis_url):
    async with two_gateways(redis_url) as (left, right, clock):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        clock.advance(LEASE_S + 0.01)
        assert names(right) == set()


async def test_what_one_gateway_has_on_a_worker_is_known_to_the_others(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        with left.working("w1", 500, 300) as working, left.working("w1", 500, 200):
            await until(lambda: _is_known(right, requests=2, prefill_tokens=500))
            working.prefilled()
            await until(lambda: _is_known(right, requests=2, prefill_tokens=200))
            assert left.views("qwen")[0].others_in_flight == 0, "one's own is not the others'"
        await until(lambda: _is_known(right, requests=0, prefill_tokens=0))


async def test_what_others_told_is_not_taken_for_somebody_elses(redis_url):
    """An engine's count lags behind what gateways tell one another; only what it says twice is a stranger's."""
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        with left.working("w1", 500), left.working("w1", 500):
            await until(lambda: _is_known(right, requests=2))
            await right.beat(beat("w1", running=5))
            assert right.views("qwen")[0].others_in_flight == 2
            await right.beat(beat("w1", running=5))
            assert right.views("qwen")[0].others_in_flight == 5


async def test_the_work_of_a_gateway_that_died_is_forgotten_when_its_lease_ends(redis_url):
    async with two_gateways(redis_url) as (left, right, clock):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        left.working("w1", 500, 300)
        await until(lambda: _is_known(right, requests=1, prefill_tokens=300))
        await left.aclose()
        clock.advance(LEASE_S / 2)
        await right.beat(beat("w1"))
        assert right.views("qwen")[0].others_in_flight == 1
        clock.advance(LEASE_S / 2 + 0.01)
        await right.beat(beat("w1"))
        assert (right.views("qwen")[0].others_in_flight, right.views("qwen")[0].prefill_tokens) == (0, 0)


async def test_a_beat_tells_the_work_again_to_those_who_missed_it(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        with left.working("w1", 500, 300):
            await until(lambda: _is_known(right, requests=1))
            await left._redis.flushall()
            right._local.tell("w1", left._owner, 0, 0, 8)
            await left.beat(beat("w1"))
            await until(lambda: _is_known(right, requests=1, prefill_tokens=300))


async def test_the_least_that_any_gateway_would_give_a_worker_is_its_credit(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1", max_seqs=20))
        await until_listed(right, "w1")
        left.hear("w1", EngineLoad(waiting=9, kv_cache_usage=0.5))

        async def is_cut() -> bool:
            return right.views("qwen")[0].credit_seqs == 14

        await until(is_cut)


async def test_only_workers_whose_work_changed_are_told_of(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        for n in range(20):
            await left.beat(beat(f"w{n}"))
        await until_listed(right, *(f"w{n}" for n in range(20)))
        with left.working("w7", 500, 300):

            async def is_told() -> bool:
                return len(await left._redis.hgetall("sluice:{roster}:work")) > 0

            await until(is_told)
            assert await left._redis.hgetall("sluice:{roster}:work") == {f"{left._owner}|w7": "1 300 8"}


async def test_an_order_given_at_one_gateway_holds_at_all(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await right.beat(beat("w1"))  # the gateway that hears of the order is the one that the worker beats to
        await until_listed(left, "w1")
        for order in (Order.CORDON, Order.SERVE, Order.DRAIN):
            left.order("w1", order)
            await until(lambda order=order: _is_ordered(right, order))
            await right.beat(beat("w1"))


async def test_a_gateway_that_starts_later_knows_the_orders_at_once(redis_url):
    async with two_gateways(redis_url) as (left, right, clock):
        await left.beat(beat("w1"))
        left.order("w1", Order.CORDON)
        await until(lambda: _is_ordered(right, Order.CORDON))
        async with open_roster("redis", redis_url, clock, lease_s=LEASE_S) as late:
            assert late.standing("w1").order is Order.CORDON
            assert late.views("qwen")[0].state is WorkerState.CORDONED


async def test_orders_survive_a_redis_that_forgets_everything(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1"))
        left.order("w1", Order.CORDON)
        await until(lambda: _is_ordered(right, Order.CORDON))
        await left._redis.flushall()
        await left.beat(beat("w1"))

        async def are_told_again() -> bool:
            return await left._redis.hgetall("sluice:{roster}:orders") == {"w1": "1 cordon"}

        await until(are_told_again)


async def test_an_order_that_redis_missed_is_told_when_it_is_back(redis_server, redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        redis_server.kill()
        try:
            left.order("w1", Order.DRAIN)
            assert left.views("qwen")[0].state is WorkerState.DRAINING
        finally:
            redis_server.start()
        await until(lambda: _is_ordered(right, Order.DRAIN))


async def test_of_two_orders_at_once_the_stronger_one_holds_everywhere(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        right.order("w1", Order.DRAIN)
        left.order("w1", Order.CORDON)
        for roster in (left, right):
            await until(lambda roster=roster: _is_ordered(roster, Order.DRAIN))


async def test_with_redis_away_each_goes_on_with_what_it_saw_and_shares_again_when_it_is_back(redis_server, redis_url):
    async with two_gateways(redis_url) as (left, right, clock):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        redis_server.kill()
        try:
            await until(lambda: _is_up(right, False))
            await left.beat(beat("w2"))
            for _ in range(4):  # twice the lease in all
                clock.advance(LEASE_S / 2)
                await left.beat(beat("w1"))
                await until(lambda: _has_lease(right, "w1", clock.now_s + LEASE_S))
            assert names(right) == {"w1"}, "no news of it is not news of its end"
            assert names(left) == {"w1"}, "what beats here is known here, and what falls silent is not"
        finally:
            redis_server.start()
        await left.beat(beat("w3"))
        await until_listed(right, "w1", "w3")


async def test_a_beat_that_another_version_wrote_does_no_harm(redis_url):
    async with two_gateways(redis_url) as (left, right, _):
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        await right._redis.hset("sluice:{roster}:beats", "strange", '{"worker": "strange"}')
        await right._redis.zadd("sluice:{roster}:leases", {"strange": 9e15})
        await right._redis.zadd("sluice:{roster}:versions", {"strange": 1e6})
        await left.beat(beat("w2"))
        await until_listed(right, "w1", "w2")


@asynccontextmanager
async def two_hearers(redis_url):
    """Two gateways that know worker w1, and what each hears of prompts that the other sent elsewhere than home."""
    async with two_gateways(redis_url) as (left, right, clock):
        heard = {left: [], right: []}
        for roster, told in heard.items():
            roster.listen(lambda *what, told=told: told.append(what))
        await left.beat(beat("w1"))
        await until_listed(right, "w1")
        yield left, right, heard, clock


async def test_what_one_gateway_sent_elsewhere_than_home_is_heard_by_the_others_once(redis_url):
    async with two_hearers(redis_url) as (left, right, heard, _):
        left.tell_sent(2**64 - 1, "w1")
        await until(lambda: _is_heard(heard[right], ("qwen", 2**64 - 1, "w1")))
        right.tell_sent(7, "w1")
        await until(lambda: _is_heard(heard[left], ("qwen", 7, "w1")))
        left.tell_sent(8, "w1")
        await until(lambda: _is_heard(heard[right], ("qwen", 2**64 - 1, "w1"), ("qwen", 8, "w1")))
        assert heard[left] == [("qwen", 7, "w1")], "one's own words are no news"


async def test_a_gateway_that_starts_later_hears_what_was_sent_before(redis_url):
    async with two_hearers(redis_url) as (left, right, heard, clock):
        left.tell_sent(1, "w1")
        await until(lambda: _is_heard(heard[right], ("qwen", 1, "w1")))
        redis = connect(redis_url)
        late, said = RedisRoster(redis, clock, lease_s=LEASE_S, refresh_s=REFRESH_S), []
        late.listen(lambda *what: said.append(what))
        await late.start()
        await late.aclose()
        await redis.aclose()
        assert said == [("qwen", 1, "w1")]


async def test_what_was_sent_to_a_worker_that_is_not_listed_is_not_heard(redis_url):
    async with two_hearers(redis_url) as (left, right, heard, _):
        left.tell_sent(1, "w9")
        left.tell_sent(2, "w1")
        await until(lambda: _is_heard(heard[right], ("qwen", 2, "w1")))


async def test_more_than_is_told_at_once_reaches_nobody(redis_url):
    async with two_hearers(redis_url) as (left, right, heard, _):
        for beginning in range(SENT_TOLD_MAX + 10):
            left.tell_sent(beginning, "w1")
        await until(lambda: _is_heard(heard[right], *(("qwen", number, "w1") for number in range(SENT_TOLD_MAX))))


async def test_a_word_that_another_version_wrote_does_no_harm(redis_url):
    async with two_hearers(redis_url) as (left, right, heard, _):
        for word in ("?", "{}", "[[1]]", '[["one", "w1"]]', "3"):
            await right._redis.xadd("sluice:{roster}:sent", {"stranger": word})
        left.tell_sent(1, "w1")
        await until(lambda: _is_heard(heard[right], ("qwen", 1, "w1")))


async def test_a_redis_that_lost_its_memory_tells_what_is_sent_from_then_on(redis_url):
    async with two_hearers(redis_url) as (left, right, heard, _):
        left.tell_sent(1, "w1")
        await until(lambda: _is_heard(heard[right], ("qwen", 1, "w1")))
        await left._redis.flushall()
        left.tell_sent(2, "w1")
        await until(lambda: _is_heard(heard[right], ("qwen", 1, "w1"), ("qwen", 2, "w1")))


async def _is_heard(heard: list[tuple[str, int, str]], *expected: tuple[str, int, str]) -> bool:
    return heard == list(expected)


async def _is_known(roster: RedisRoster, *, requests: int, prefill_tokens: int | None = None) -> bool:
    [view] = roster.views("qwen")
    return view.others_in_flight == requests and prefill_tokens in (None, view.prefill_tokens)


async def _has_lease(roster: RedisRoster, worker: str, until_s: float) -> bool:
    return roster._local._entries[worker].ends_s == until_s


async def _is_up(roster: RedisRoster, expected: bool) -> bool:
    return roster.is_up is expected


async def _is_ordered(roster: RedisRoster, expected: Order) -> bool:
    return roster.standing("w1").order is expected
