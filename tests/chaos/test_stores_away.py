"""The database or Redis goes away under load: requests go on, the gateway says so, and the books stay whole."""

import asyncio
from itertools import cycle

import pytest

from tests.chaos.conftest import start_workers
from tests.servers.clients import keep_asking
from tests.servers.installation import Installation

AWAY_S = 30


def assert_books_are_whole(installation, endings):
    events = installation.events()
    assert set(events) == {ending.request_id for ending in endings}
    for ending in endings:
        event = events[ending.request_id]
        assert (event["prompt_tokens"], event["completion_tokens"]) == (ending.usage.prompt, ending.usage.completion)


@pytest.mark.postgres
@pytest.mark.timeout(180)
async def test_thirty_seconds_without_the_database_cost_nothing(tmp_path, redis_url, postgres_server, postgres_url):
    installation = Installation(tmp_path / "home", redis_url=redis_url, database_url=postgres_url)
    try:
        gateway = installation.add_gateway()
        key = installation.declare()
        start_workers(installation, 2)
        stop = asyncio.Event()
        load = asyncio.create_task(keep_asking(lambda: gateway.url, key, clients=8, stop=stop, seed=3))
        await asyncio.sleep(2)
        await asyncio.to_thread(postgres_server.stop)
        await asyncio.sleep(AWAY_S)
        ready = await asyncio.to_thread(gateway.readyz)
        assert ready["ready"]
        assert "database" in ready["degraded"]
        assert await asyncio.to_thread(gateway.metric, "sluice_database_up") == 0
        assert await asyncio.to_thread(gateway.metric, "sluice_spool_backlog_events") > 0
        assert await asyncio.to_thread(gateway.metric, "sluice_spool_backlog_age_seconds") > AWAY_S / 2
        await asyncio.to_thread(postgres_server.start)
        await asyncio.sleep(2)
        stop.set()
        endings = await load
        assert all(ending.is_finished for ending in endings)
        await asyncio.to_thread(installation.wait_shipped, 30)
        assert_books_are_whole(installation, endings)
        assert (await asyncio.to_thread(gateway.readyz))["degraded"] == []
    finally:
        installation.close()


@pytest.mark.timeout(120)
async def test_requests_go_on_while_redis_is_dead_and_when_it_returns(installation, redis_server):
    gateways = [installation.add_gateway() for _ in range(2)]
    key, urls = installation.declare(), cycle(gateway.url for gateway in gateways)
    start_workers(installation, 2)
    stop = asyncio.Event()
    load = asyncio.create_task(keep_asking(lambda: next(urls), key, clients=48, stop=stop, seed=4))
    await asyncio.sleep(2)
    redis_server.kill()
    await asyncio.sleep(AWAY_S)
    try:
        for gateway in gateways:
            ready = await asyncio.to_thread(gateway.readyz)
            assert ready["ready"]
            assert "redis" in ready["degraded"]
            assert await asyncio.to_thread(gateway.metric, "sluice_redis_up") == 0
    finally:
        redis_server.start()
    for gateway in gateways:
        await asyncio.to_thread(
            gateway.wait_until, "back on Redis", lambda g=gateway: g.metric("sluice_redis_up") == 1, 5
        )
    await asyncio.sleep(2)
    stop.set()
    endings = await load
    assert all(ending.is_finished for ending in endings)
    await asyncio.to_thread(installation.wait_shipped)
    assert_books_are_whole(installation, endings)
