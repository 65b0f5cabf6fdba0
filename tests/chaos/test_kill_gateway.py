"""`kill -9` of a gateway at any moment: what clients finished is in the books once, and what it held is free again."""

import asyncio
import random
from collections import Counter

import pytest

from gateway.serve.wire import ConnectionPool
from tests.chaos.conftest import start_workers
from tests.servers.claims import assert_finished_requests_are_booked_once
from tests.servers.clients import COUNTED, ask, keep_asking
from tests.waiting import let_run_s

KILLS = 20


@pytest.mark.timeout(240)
async def test_twenty_kills_lose_and_double_no_finished_request(installation):
    gateway = installation.add_gateway()
    key = installation.declare()
    start_workers(installation, 2)
    dice, stop = random.Random(42), asyncio.Event()
    load = asyncio.create_task(keep_asking(lambda: gateway.url, key, clients=16, stop=stop, seed=1))
    for _ in range(KILLS):
        await asyncio.sleep(dice.uniform(0.3, 1.5))
        gateway.kill()
        await asyncio.to_thread(gateway.start)
    stop.set()
    endings = await load
    await asyncio.to_thread(installation.wait_shipped)
    events = installation.events()

    finished = [ending for ending in endings if ending.is_finished]
    assert len(finished) > 10 * KILLS, Counter(ending.status for ending in endings)
    assert any(ending.status == 200 and not ending.is_whole for ending in endings), "no stream was cut: nothing proved"
    assert_finished_requests_are_booked_once(endings, events)
    report = installation.sluice_json(
        "report", "usage", "--from", "2020-01-01", "--to", "2100-01-01", "--group-by", "tenant"
    )
    assert report["totals"]["requests"] == len(events)
    assert report["totals"]["completion_tokens"] == sum(event["completion_tokens"] for event in events.values())


@pytest.mark.timeout(120)
async def test_slots_and_tickets_of_a_killed_gateway_are_free_within_five_seconds(installation):
    """The dead gateway holds all 16 slots and some tickets; a request at the other one gets through in time."""
    dying, living = installation.add_gateway(), installation.add_gateway(own_home=True)
    key = installation.declare()
    start_workers(installation, 1)
    long = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1500, "ignore_eos": True}
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
    holding = [
        asyncio.create_task(ask(connections, dying.url, key, long | {"stream": True, "stream_options": COUNTED}))
        for _ in range(24)
    ]
    await asyncio.to_thread(
        dying.wait_until, "holding all", lambda: dying.metric("sluice_queue_waiting_requests") == 8, 10
    )
    waiting = asyncio.create_task(ask(connections, living.url, key, long | {"max_tokens": 1}))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    dying.kill()
    killed_s = let_run_s()
    ending = await waiting
    assert ending.is_finished
    assert let_run_s() - killed_s <= 5
    await asyncio.to_thread(
        living.wait_until, "free of the dead", lambda: living.metric("sluice_queue_waiting_requests") == 0, 5
    )
    assert let_run_s() - killed_s <= 6  # the metric itself is read a moment later
    await asyncio.gather(*holding)
