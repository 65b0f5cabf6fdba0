"""A rolling restart of every worker and of every gateway, under load: no request fails, and each is billed once."""

import asyncio

import pytest

from tests.chaos.conftest import SIM, start_workers
from tests.servers.installation import Installation
from tests.servers.rolling import replace_workers, restart
from tests.servers.sdk_clients import keep_asking_by_sdk


@pytest.fixture
def installation(tmp_path, redis_url):
    installation = Installation(tmp_path / "home", redis_url=redis_url, SLUICE_DRAIN_ANNOUNCE_S="0.5")
    yield installation
    installation.close()


@pytest.mark.timeout(400)
async def test_replacing_all_workers_and_restarting_all_gateways_fails_no_request(installation):
    for own_home in (False, True, True):
        installation.add_gateway(own_home=own_home)
    *others, last = installation.gateways
    key = installation.declare()
    start_workers(installation, 2)
    stop = asyncio.Event()
    urls = [gateway.url for gateway in installation.gateways]
    load = asyncio.create_task(keep_asking_by_sdk(urls, key, clients=6, stop=stop, seed=5))
    try:
        await asyncio.gather(
            asyncio.to_thread(replace_workers, installation, last, *SIM),
            asyncio.to_thread(restart, others),  # at the same time
        )
        await asyncio.to_thread(restart, [last])
    finally:
        stop.set()
        tally = await load

    assert not tally.failures
    assert min(tally.plain, tally.streams) > 50, tally
    await asyncio.to_thread(installation.wait_shipped)
    events = installation.events()
    assert {name: events[name]["completion_tokens"] for name in tally.tokens} == tally.tokens
    assert len(events) == len(tally.tokens)
    assert {event["outcome"] for event in events.values()} == {"completed"}
