"""The worst moments on real vLLM workers: a gateway killed many times, then a worker. Last: it leaves one dead."""

import asyncio
import random

import pytest

from tests.servers.claims import assert_a_dead_worker_costs_nobody, assert_finished_requests_are_booked_once
from tests.servers.clients import freeze_amid_streams, keep_asking

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

KILLS = 20


async def test_twenty_kills_of_the_gateway_lose_and_double_no_finished_request(real):
    gateway, dice, stop = real.gateways[0], random.Random(11), asyncio.Event()
    load = asyncio.create_task(keep_asking(lambda: gateway.url, real.key, clients=8, stop=stop, seed=5))
    for _ in range(KILLS):
        await asyncio.sleep(dice.uniform(0.5, 1.5))
        gateway.kill()
        await asyncio.to_thread(gateway.start)
    stop.set()
    endings = await load
    await asyncio.to_thread(real.wait_shipped)
    assert sum(ending.is_finished for ending in endings) > KILLS
    assert any(ending.status == 200 and not ending.is_whole for ending in endings), "no stream was cut: nothing proved"
    assert_finished_requests_are_booked_once(endings, real.events())


async def test_a_killed_worker_costs_nobody_and_its_streams_go_on_elsewhere(real):
    known = set(real.events())
    gateway, stop, watched = real.gateways[0], asyncio.Event(), []
    load = asyncio.create_task(
        keep_asking(lambda: gateway.url, real.key, clients=16, stop=stop, seed=6, tokens=(500, 600), watched=watched)
    )
    await asyncio.sleep(2)
    await freeze_amid_streams(real.workers[1], watched)
    await asyncio.to_thread(real.workers[1].kill_tree)
    await asyncio.sleep(8)
    stop.set()
    endings = await load
    await asyncio.to_thread(real.wait_shipped)
    events = {event_id: event for event_id, event in real.events().items() if event_id not in known}
    assert_a_dead_worker_costs_nobody(endings, events)
