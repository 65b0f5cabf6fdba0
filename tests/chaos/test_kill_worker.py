"""`kill -9` of a worker under load: what had no byte yet succeeds elsewhere, the rest ends with an error event."""

import asyncio

import pytest

from tests.chaos.conftest import start_workers
from tests.servers.claims import assert_a_dead_worker_costs_only_begun_streams
from tests.servers.clients import freeze_amid_streams, keep_asking


@pytest.mark.timeout(120)
async def test_requests_without_a_byte_go_elsewhere_and_streams_end_with_an_error_event(installation):
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
    assert_a_dead_worker_costs_only_begun_streams(endings, events)
    retried = [event for event in events.values() if event["attempts"] > 1]
    assert all(event["outcome"] == "completed" for event in retried)
    gateway.wait_until("rid of the dead worker", lambda: gateway.ready_workers() == ["worker-2"], 5)
