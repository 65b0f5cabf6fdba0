"""The store of jobs: its turns, its leases, and that random lives of many jobs leave nothing behind."""

import asyncio
import random

import pytest
from redis.asyncio import Redis

from gateway.core.jobs import Job, JobState
from gateway.errors import Refused
from gateway.stores.redis_jobs import JobTimes, RedisJobs

pytestmark = pytest.mark.redis

TIMES = JobTimes(lease_s=0.2, kept_s=60, known_s=120)
TENANTS, CLASSES = ("acme", "bolt", "cask"), ("interactive", "standard", "batch")


@pytest.fixture
async def redis(redis_url):
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        yield redis


def job(number: int, tenant="acme", service_class="standard", webhook_url="") -> Job:
    return Job(
        id=f"req_{number:032x}",
        path="/v1/chat/completions",
        tenant=tenant,
        project="",
        key="key_1",
        key_digest="d",
        service_class=service_class,
        model="tiny",
        pool="tiny",
        is_stream=False,
        arrived_ms=1,
        webhook_url=webhook_url,
    )


async def enter(store, *jobs, waiting_max=1000):
    return [await store.enter(each, waiting_max) for each in jobs]


async def take(store, count) -> list[int]:
    """Take jobs; gives their numbers."""
    return [int(taken.id[4:], 16) for taken in (await store.take("tiny", count)).jobs]


async def test_tenants_take_turns_however_many_jobs_each_has(redis):
    store = RedisJobs(redis, "r1", TIMES)
    await enter(store, *(job(number) for number in range(6)), job(10, "bolt"), job(11, "bolt"), job(20, "cask"))
    assert await take(store, 9) == [0, 10, 20, 1, 11, 2, 3, 4, 5]


async def test_every_tenth_turn_goes_to_the_least_urgent_class(redis):
    store = RedisJobs(redis, "r1", TIMES)
    await enter(store, *(job(number) for number in range(30)), *(job(100 + n, service_class="batch") for n in range(3)))
    took = await take(store, 25)
    assert [place for place, number in enumerate(took, 1) if number >= 100] == [10, 20]


async def test_the_position_is_the_place_in_which_jobs_are_then_taken(redis):
    dice, store = random.Random(3), RedisJobs(redis, "r1", TIMES)
    jobs = [job(n, dice.choice(TENANTS), dice.choice(CLASSES[1:])) for n in range(9)]  # before the tenth turn
    await enter(store, *jobs)
    positions = {int(each.id[4:], 16): (await store.view(each.id)).position for each in jobs}
    assert await take(store, 9) == sorted(positions, key=positions.__getitem__)


async def test_entering_twice_is_entering_once_and_a_full_line_takes_no_more(redis):
    store = RedisJobs(redis, "r1", TIMES)
    await enter(store, job(1), job(2), waiting_max=2)
    with pytest.raises(Refused, match="2 jobs wait"):
        await enter(store, job(3), waiting_max=2)
    assert [view.position for view in await enter(store, job(1), job(2), waiting_max=2)] == [1, 2]
    assert await take(store, 5) == [1, 2]


async def test_a_silent_runner_loses_its_jobs_and_learns_it_and_one_that_renews_keeps_them(redis):
    silent, busy, third = (RedisJobs(redis, name, TIMES) for name in ("silent", "busy", "third"))
    await enter(silent, job(1), job(2))
    assert (await take(silent, 1), await take(busy, 1)) == ([1], [2])
    for _ in range(4):
        await asyncio.sleep(TIMES.lease_s / 3)
        assert not await busy.renew("tiny", {job(2).id: True})
    [taken] = (await third.take("tiny", 5)).jobs
    assert (taken.id, taken.attempt) == (job(1).id, 2)
    assert await silent.renew("tiny", {job(1).id: True}) == {job(1).id}
    await silent.release("tiny", job(1).id, delay_s=0, counts=True)  # too late: it is not ours to give back
    assert not await third.renew("tiny", {job(1).id: True})


async def test_a_job_that_was_given_back_is_taken_again_after_its_delay(redis):
    store = RedisJobs(redis, "r1", TIMES)
    await enter(store, job(1))
    await take(store, 1)
    await store.release("tiny", job(1).id, delay_s=0.1, counts=False)
    assert (await store.view(job(1).id)).state is JobState.QUEUED
    assert await take(store, 1) == []
    await asyncio.sleep(0.11)
    [taken] = (await store.take("tiny", 1)).jobs
    assert taken.attempt == 1, "it was given back without an attempt"


async def test_the_first_ending_counts_and_a_webhook_is_due_until_it_is_settled(redis):
    store = RedisJobs(redis, "r1", TIMES)
    await enter(store, job(1, webhook_url="https://example.com/"))
    assert await store.finish("tiny", job(1).id, JobState.CANCELLED)
    assert not await store.finish("tiny", job(1).id, JobState.COMPLETED)
    assert (await store.view(job(1).id)).state is JobState.CANCELLED
    [due] = await store.due_webhooks("tiny", 10)
    assert (due.url, due.attempt, due.view.state) == ("https://example.com/", 1, JobState.CANCELLED)
    assert not await store.due_webhooks("tiny", 10), "two would send it at once"
    await store.settle_webhook("tiny", job(1).id, 0)
    [due] = await store.due_webhooks("tiny", 10)
    assert due.attempt == 2
    await store.settle_webhook("tiny", job(1).id, None)
    assert not await redis.zcard("sluice:{tiny}:jobs:hooks")


@pytest.mark.parametrize("seed", range(5))
async def test_random_lives_of_many_jobs_end_once_each_and_leave_nothing_behind(redis, seed):
    """Runners die, give back, lose leases, and tenants cancel: each job ends once, no line and no stream stays."""
    dice = random.Random(seed)
    runners = [RedisJobs(redis, f"r{number}", JobTimes(lease_s=0.03, kept_s=60, known_s=120)) for number in range(3)]
    jobs = [job(n, dice.choice(TENANTS), dice.choice(CLASSES)) for n in range(60)]
    coming, ended = list(jobs), []
    async with asyncio.timeout(20):
        while len(ended) < len(jobs):
            runner = dice.choice(runners)
            for new in coming[: dice.randint(0, 4)]:
                await runner.enter(new, 1000)
                coming.remove(new)
            for taken in (await runner.take("tiny", dice.randint(0, 4))).jobs:
                fate = dice.random()
                if fate < 0.5:
                    ended += [taken.id] if await runner.finish("tiny", taken.id, JobState.COMPLETED) else []
                elif fate < 0.7:
                    await runner.release("tiny", taken.id, delay_s=0, counts=dice.random() < 0.5)
                elif fate < 0.8:
                    await runner.renew("tiny", {taken.id: True})  # and dies
            if dice.random() < 0.2:
                victim = dice.choice(jobs).id
                ended += [victim] if await runner.finish("tiny", victim, JobState.CANCELLED) else []
            await asyncio.sleep(0.002)
    assert sorted(ended) == sorted(each.id for each in jobs)
    haul = await runners[0].take("tiny", 10)
    assert (list(haul.jobs), haul.waiting, haul.unfinished) == ([], 0, 0)
    left = {key async for key in redis.scan_iter("sluice:{tiny}:jobs:*") if ":job:" not in key}
    assert left <= {"sluice:{tiny}:jobs:counts", "sluice:{tiny}:jobs:pace"}
