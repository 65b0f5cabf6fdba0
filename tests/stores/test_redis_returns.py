"""Who was sent away by one gateway keeps its age at the others."""

from contextlib import asynccontextmanager

import pytest

from gateway.core.returns import mark
from gateway.stores.redis_client import connect
from gateway.stores.redis_returns import RedisReturns
from tests.waiting import until

pytestmark = pytest.mark.redis

NAME, NOW_MS = mark("key", b"body"), 1_700_000_000_000


@asynccontextmanager
async def gateways(redis_url, *names: str):
    redis = connect(redis_url)
    stores = [RedisReturns(redis, name, tell_s=0.02, store_timeout_s=0.3) for name in names]
    for store in stores:
        await store.start()
    try:
        yield stores
    finally:
        for store in stores:
            await store.aclose()
        await redis.aclose()


async def test_a_request_that_one_gateway_sent_away_has_its_age_at_another(redis_url):
    async with gateways(redis_url, "a", "b") as (left, right):
        left.note(NAME, NOW_MS - 5000)
        await until(lambda: len(right))
        assert right.take(NAME, NOW_MS) == NOW_MS - 5000
        assert right.take(NAME, NOW_MS) is None
        assert left.take(NAME, NOW_MS) == NOW_MS - 5000


async def test_a_gateway_that_ends_tells_the_last_ones_too(redis_url):
    async with gateways(redis_url, "b") as (right,):
        async with gateways(redis_url, "a") as (left,):
            left.note(NAME, NOW_MS)
        await until(lambda: len(right))


async def test_a_gateway_that_starts_hears_of_those_who_were_sent_away_before(redis_url):
    async with gateways(redis_url, "a") as (left,):
        left.note(NAME, NOW_MS)
    async with gateways(redis_url, "b") as (right,):
        assert right.take(NAME, NOW_MS) == NOW_MS


async def test_with_redis_away_nothing_is_lost_and_nobody_waits(redis_server, redis_url):
    async with gateways(redis_url, "a", "b") as (left, right):
        redis_server.kill()
        try:
            await until(lambda: not left._is_up)
            left.note(NAME, NOW_MS)
            assert left.take(NAME, NOW_MS) == NOW_MS
        finally:
            redis_server.start()
        await until(lambda: len(right))


async def test_only_so_many_are_told_at_once(redis_url):
    async with gateways(redis_url, "a", "b") as (left, right):
        for number in range(3000):
            left.note(mark("key", b"%d" % number), NOW_MS)
        await until(lambda: len(right))
        await until(lambda: not left._untold)
        assert len(right) == 1000
        assert right.take(mark("key", b"2999"), NOW_MS) == NOW_MS
