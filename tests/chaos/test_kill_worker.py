"""`kill -9` of a worker under load: what had no byte yet succeeds elsewhere, and begun streams go on elsewhere."""

import asyncio

import pytest

from gateway.serve.wire import ConnectionPool
from tests.chaos.conftest import start_workers
from tests.servers.claims import assert_a_dead_worker_costs_nobody
from tests.servers.clients import ask, freeze_amid_streams, keep_asking


@pytest.mark.timeout(180)
async def test_a_killed_worker_costs_nobody_and_begun_streams_say_what_they_would_have_said(installation):
    gateway = installation.add_gateway()
    key = installation.declare()
    start_workers(installation, 2)
    stop, watched = asyncio.Event(), []
    load = asyncio.create_task(
        keep_asking(lambda: gateway.url, key, clients=16, stop=stop, seed=2, tokens=(200, 300), watched=watched)
    )
    await asyncio.sleep(1)
    await freeze_amid_streams(installation.workers[0], watched)
    installation.workers[0].kill_tree()
    await asyncio.sleep(3)
    stop.set()
    endings = await load

    await asyncio.to_thread(installation.wait_shipped)
    events = installation.events()
    assert_a_dead_worker_costs_nobody(endings, events)
    gateway.wait_until("rid of the dead worker", lambda: gateway.ready_workers() == ["worker-2"], 5)
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
    for ending in [ending for ending in endings if events[ending.request_id]["continued"]]:
        assert (await ask(connections, gateway.url, key, ending.asked)).text == ending.text
    connections.close()
