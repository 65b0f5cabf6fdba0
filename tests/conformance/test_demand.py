"""The board of demand, in memory and in Redis: a word per gateway while its lease lasts, and what was learnt stays."""

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.core.demand import Learnt, Share, together
from gateway.stores.memory_demand import MemoryDemand
from gateway.stores.redis_client import connect
from gateway.stores.redis_demand import RedisDemand

OWN = {"p": Share(arrival_rate=10.0, backlog_tokens=5.0, waiting=1, in_flight=2, served_rate=3.0, is_scaled=True)}


@pytest.fixture
async def redis(redis_url):
    client: Redis = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def board(request):
    if request.param == "memory":
        return MemoryDemand()
    return RedisDemand(request.getfixturevalue("redis"), "one", store_timeout_s=10)


async def test_own_words_are_no_others_and_what_was_learnt_stands_until_it_is_told_anew(board):
    await board.exchange(OWN, {"p": Learnt(rate_per_worker=100.0), "q": Learnt(start_s=60.0, lead_s=2.0, seqs_each=8)})
    await board.exchange(OWN, {"p": Learnt(rate_per_worker=200.0)})
    await board.exchange(OWN, {})
    assert board.is_up
    assert list(board.others) == []
    assert board.learnt == {
        "p": Learnt(rate_per_worker=200.0),
        "q": Learnt(start_s=60.0, lead_s=2.0, seqs_each=8),
    }


@pytest.mark.redis
async def test_each_gateway_reads_the_others_latest_words_until_their_leases_end(redis):
    one, two = (RedisDemand(redis, name, lease_s=1.0, store_timeout_s=10) for name in ("one", "two"))
    await one.exchange({"p": Share(waiting=7)}, {})
    await one.exchange(OWN, {})
    await two.exchange({"q": Share(waiting=1)}, {})
    assert list(two.others) == [OWN]
    assert list(one.others) == [], "as of its own last exchange"
    async with asyncio.timeout(30):
        while two.others:
            await asyncio.sleep(0.2)
            await two.exchange({}, {})


@pytest.mark.redis
async def test_without_its_store_the_last_words_stand(redis_server, redis_url):
    client: Redis = connect(redis_url)
    one, two = (RedisDemand(client, name, lease_s=60.0, store_timeout_s=10) for name in ("one", "two"))
    await one.exchange(OWN, {})
    await two.exchange({}, {})
    redis_server.kill()
    try:
        await two.exchange({}, {"p": Learnt(start_s=1.0)})
        assert not two.is_up
        assert list(two.others) == [OWN]
    finally:
        redis_server.start()
    await two.exchange({}, {})
    assert two.is_up
    await client.aclose()


@pytest.mark.redis
async def test_a_newer_gateways_words_are_read_as_far_as_they_are_known(redis):
    two = RedisDemand(redis, "two", store_timeout_s=10)
    await redis.hset("sluice:{scale}:words", "newer", '{"p": {"waiting": 3, "mood": "good"}}')
    await two.exchange({}, {})
    assert list(two.others) == [{"p": Share(waiting=3)}]


def test_shares_add_up():
    assert together([OWN["p"], Share(waiting=2, in_flight=1), Share()]) == Share(
        arrival_rate=10.0, backlog_tokens=5.0, waiting=3, in_flight=3, served_rate=3.0, is_scaled=True
    )
