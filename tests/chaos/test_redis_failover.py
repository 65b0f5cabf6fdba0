"""A Redis that has the line is killed under load: gateways go on, then share the line at its successor."""

import asyncio
from itertools import cycle

import pytest

from tests.chaos.conftest import start_workers
from tests.chaos.test_stores_away import assert_books_are_whole
from tests.servers.clients import keep_asking
from tests.servers.installation import Installation
from tests.servers.replicated_redis import FAILOVER_S

pytestmark = pytest.mark.redis


@pytest.fixture
def installation(tmp_path, replicated):
    installation = Installation(tmp_path / "home", redis_url=replicated.url)
    yield installation
    installation.close()


def shares_again(gateway) -> bool:
    """Tell whether a gateway lost its line in Redis and has it again; its log knows, however short that was."""
    return "queue_shared_again" in gateway.log.read_text() and gateway.metric("sluice_redis_up") == 1


@pytest.mark.timeout(240)
async def test_no_request_is_lost_when_the_master_is_killed_and_the_replica_takes_over(installation, replicated):
    gateways = [installation.add_gateway() for _ in range(2)]
    key, urls = installation.declare(), cycle(gateway.url for gateway in gateways)
    start_workers(installation, 2)
    stop = asyncio.Event()
    load = asyncio.create_task(keep_asking(lambda: next(urls), key, clients=48, stop=stop, seed=5))
    await asyncio.sleep(2)
    await asyncio.to_thread(replicated.master_of("tiny").kill)
    for gateway in gateways:
        await asyncio.to_thread(gateway.wait_until, "sharing again", lambda g=gateway: shares_again(g), FAILOVER_S)
    assert [(await asyncio.to_thread(gateway.readyz))["degraded"] for gateway in gateways] == [[], []]
    await asyncio.sleep(2)
    stop.set()
    endings = await load
    assert endings
    assert all(ending.is_finished for ending in endings)
    await asyncio.to_thread(installation.wait_shipped)
    assert_books_are_whole(installation, endings)
    logs = "".join(gateway.log.read_text() for gateway in gateways)
    assert not [secret for secret in replicated.secrets if secret in logs]
