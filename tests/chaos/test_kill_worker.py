"""`kill -9` of a worker under load: what had no byte yet succeeds elsewhere, the rest ends with an error event."""

import asyncio

import pytest

from tests.chaos.conftest import start_workers
from tests.servers.clients import keep_asking


@pytest.mark.timeout(120)
async def test_requests_without_a_byte_go_elsewhere_and_streams_end_with_an_error_event(installation):
    gateway = installation.add_gateway()
    key = installation.declare()
    start_workers(installation, 2)
    stop = asyncio.Event()
    load = asyncio.create_task(keep_asking(lambda: gateway.url, key, clients=16, stop=stop, seed=2))
    await asyncio.sleep(2)
    installation.workers[0].kill_tree()
    await asyncio.sleep(3)
    stop.set()
    endings = await load

    failed = [ending for ending in endings if not ending.is_finished]
    assert any(ending.has_error_event for ending in failed), (
        "some streams must have been cut, or the kill proved nothing"
    )
    for ending in failed:
        assert ending.has_error_event, f"{ending.status} {ending.body[-200:]}"
        assert ending.usage.completion > 0, "an error event is only for streams that had begun"
    assert not any(ending.is_silent for ending in endings)
    await asyncio.to_thread(installation.wait_shipped)
    events = installation.events()
    for ending in endings:
        event = events[ending.request_id]
        assert event["completion_tokens"] == ending.usage.completion
        assert event["outcome"] == ("completed" if ending.is_finished else "upstream_failed")
    retried = [event for event in events.values() if event["attempts"] > 1]
    assert all(event["outcome"] == "completed" for event in retried)
    gateway.wait_until("rid of the dead worker", lambda: gateway.ready_workers() == ["worker-2"], 5)
