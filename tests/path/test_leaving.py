"""A client may leave at any instant, in the line or in the stream: nothing stays behind."""

import asyncio
import random

import pytest

from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, ask
from tests.waiting import until

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 40, "ignore_eos": True}
CLIENTS = 20


@pytest.mark.parametrize("seed", range(20))
async def test_clients_leaving_at_random_leave_nothing_behind(seed, start_path):
    """Twenty clients over three slots, most of whom leave in the line or in the stream: no slot, no work remains."""
    dice = random.Random(seed)
    async with start_path(count=1) as path:
        await path.beat(0, max_seqs=3)
        tasks = []
        for _ in range(CLIENTS):
            is_stream = dice.random() < 0.7
            body = BODY | ({"stream": True, "stream_options": COUNTED} if is_stream else {})
            connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
            tasks.append(asyncio.create_task(ask(connections, path.url, path.key, body)))
            await asyncio.sleep(dice.uniform(0, 0.01))
        for task in tasks:
            if dice.random() < 0.7:
                asyncio.get_running_loop().call_later(dice.uniform(0, 0.4), task.cancel)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: "[0 in flight, 0 waiting" in path.queue)
        await until(lambda: path.views[0].in_flight == 0)
        assert path.views[0].outstanding_tokens == 0
        await until(lambda: not path.engines[0].engine.batch.running and not path.engines[0].engine.batch.waiting)
        events = await path.events()

        finished = [ending for ending in done if not isinstance(ending, BaseException)]
        assert all(ending.is_finished for ending in finished)
        assert {ending.request_id for ending in finished} <= set(events)
        assert len(events) <= CLIENTS  # one that left before its request was read has none
        assert {event["outcome"] for event in events.values()} <= {"completed", "client_gone"}
        for ending in finished:
            assert events[ending.request_id]["completion_tokens"] == 40
        delivered = sum(event["completion_tokens"] for event in events.values())
        made = sum(entry["completion_tokens"] for entry in await path.engines[0].journal())
        assert delivered <= made


async def test_a_client_that_leaves_the_line_frees_its_place_at_once(start_path):
    async with start_path(count=1) as path:
        await path.beat(0, max_seqs=1)
        connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
        long = BODY | {"max_tokens": 3000, "stream": True}
        holding = asyncio.create_task(ask(connections, path.url, path.key, long))
        await until(lambda: "tiny" in path.gateway._admission.queues and "[1 in flight, 0 waiting" in path.queue)
        waiting = asyncio.create_task(ask(connections, path.url, path.key, BODY))
        await until(lambda: "[1 in flight, 1 waiting" in path.queue)
        waiting.cancel()
        left = asyncio.get_running_loop().time()
        await until(lambda: "[1 in flight, 0 waiting" in path.queue)
        assert asyncio.get_running_loop().time() - left < 0.25
        holding.cancel()
        await until(lambda: "[0 in flight, 0 waiting" in path.queue)
