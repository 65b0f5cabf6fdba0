"""The fallback: what requests see of a Redis that dies, hangs and comes back."""

import asyncio
from itertools import count

import pytest

from gateway.ports.queue import Occupancy
from gateway.stores.degraded import FallbackQueue
from gateway.stores.memory import MemoryQueue
from gateway.stores.redis import RedisQueue
from gateway.stores.redis_client import connect
from tests.conformance.queues import POOL, Visitor, enter_in_order, open_queue, queues_over, ticket, until
from tests.servers.redis_server import RedisServer
from tests.waiting import let_run_s

pytestmark = pytest.mark.redis

LEASE_S = 0.6
TIMEOUT_S = 0.3


@pytest.fixture
async def gateways(redis_url):
    """Make gateways' queues over one Redis; at the end each must be empty."""
    async with queues_over(redis_url, "fallback", lease_s=LEASE_S, store_timeout_s=TIMEOUT_S) as make:
        yield make


async def test_requests_go_on_succeeding_while_redis_is_killed_and_when_it_returns(redis_server, gateways):
    queue = await gateways(slots=4)
    served, modes, names, is_over = 0, set(), count(), asyncio.Event()

    async def keep_asking() -> None:
        nonlocal served
        while not is_over.is_set():
            async with queue.slot(ticket(f"t{next(names)}", f"tenant-{served % 3}")):
                await asyncio.sleep(0.001)
            served += 1
            modes.add(queue.is_degraded)

    users = [asyncio.create_task(keep_asking()) for _ in range(12)]
    for _ in range(2):
        before = served
        await until(lambda least=before + 50: _has_served(lambda: served, least))
        redis_server.kill()
        await until(lambda: _is_degraded(queue, True))
        before = served
        await until(lambda least=before + 50: _has_served(lambda: served, least))
        redis_server.start()
        await until(lambda: _is_degraded(queue, False))
    is_over.set()
    await asyncio.gather(*users)
    assert modes == {True, False}
    assert await queue.occupancy() == Occupancy(in_flight=0, waiting=0, slots=4)


async def _has_served(served, least: int) -> bool:
    return served() >= least


async def _is_degraded(queue, expected: bool) -> bool:
    return queue.is_degraded is expected


async def test_those_who_wait_move_to_the_local_line_and_back_in_their_order(redis_server, gateways):
    queue = await gateways(slots=1)
    log: asyncio.Queue[str] = asyncio.Queue()
    visitors = await enter_in_order(queue, [ticket(f"t{n}") for n in range(6)], log)
    redis_server.kill()
    try:
        await until(lambda: _is_degraded(queue, True))
        assert "[1 in flight, 5 waiting, degraded to 1 slots]" in repr(queue)
        for visitor in visitors[:2]:
            await visitor.leave()
    finally:
        redis_server.start()
    await until(lambda: _is_degraded(queue, False))
    assert await queue.occupancy() == Occupancy(in_flight=1, waiting=3, slots=1), "what was granted locally counts"
    for visitor in visitors[2:]:
        await visitor.leave()
    assert [log.get_nowait() for _ in visitors] == [f"t{n}" for n in range(6)]


async def test_while_degraded_a_gateway_goes_by_its_share_of_the_slots(redis_server, gateways):
    left, right = await gateways(slots=5), await gateways(slots=5)
    await until(lambda: _shares(left, 2))
    redis_server.kill()
    try:
        await until(lambda: _is_degraded(left, True))
        visitors = [Visitor(left, ticket(f"t{n}")) for n in range(4)]
        await asyncio.gather(visitors[0].admitted.wait(), visitors[1].admitted.wait())
        assert await left.occupancy() == Occupancy(in_flight=2, waiting=2, slots=2)
        left.set_slots(6)
        await visitors[2].admitted.wait()
        for visitor in visitors:
            await visitor.leave()
    finally:
        redis_server.start()
    await until(lambda: _is_degraded(left, False))
    await until(lambda: _is_degraded(right, False))


async def _shares(queue, slots: int) -> bool:
    await queue.occupancy()
    return queue._shared.slots_share == slots


async def test_while_degraded_no_request_waits_for_a_redis_that_hangs(redis_server, gateways):
    queue = await gateways(slots=2)
    with redis_server.frozen():
        async with queue.slot(ticket("on credit")), queue.slot(ticket("the one that finds out")):
            pass
        assert queue.is_degraded
        began_s = let_run_s()
        for n in range(100):
            async with queue.slot(ticket(f"t{n}")):
                pass
        assert let_run_s() - began_s < TIMEOUT_S, "not even one of a hundred waited for Redis"
    await until(lambda: _is_degraded(queue, False))


async def test_a_gateway_starts_without_redis_and_shares_once_there_is_one(tmp_path):
    server = RedisServer(tmp_path)
    async with open_queue("fallback", server.url, slots=2, lease_s=LEASE_S, store_timeout_s=TIMEOUT_S) as queue:
        assert queue.is_degraded
        async with queue.slot(ticket("a")):
            server.start()
            await until(lambda: _is_degraded(queue, False))
            assert await queue.occupancy() == Occupancy(in_flight=1, waiting=0, slots=2)
    server.kill()


async def test_a_ticket_cancelled_between_its_grant_and_the_loss_of_redis_is_left_in_neither_line(redis_url):
    client = connect(redis_url)
    shared, local = RedisQueue(client, POOL, owner="gateway"), MemoryQueue(POOL)
    queue = FallbackQueue(shared, local)
    queue.set_slots(0)
    await queue.start()

    async def lose_redis_and_cancel() -> None:
        async with queue.slot(ticket("first")):
            shared._lose("a test said so")
            other.task.cancel()
            await asyncio.wait({other.task})

    first = asyncio.create_task(lose_redis_and_cancel())
    [other] = await enter_in_order(queue, [ticket("other")])
    queue.set_slots(2)
    await first
    assert not other.admitted.is_set()
    assert "[0 in flight, 0 waiting" in repr(local)
    assert "[0 in flight, 0 waiting" in repr(queue)
    await queue.aclose()
    await client.aclose()


async def test_a_burst_is_back_in_one_order_within_two_seconds_of_redis_return(redis_server, gateways):
    """Two gateways, three hundred waiting. At the end tenants take turns over both again, each first come first."""
    queues = [await gateways(slots=1), await gateways(slots=1)]
    log: asyncio.Queue[str] = asyncio.Queue()
    visitors = []
    for n in range(150):
        for side, queue in enumerate(queues):
            visitors.append(Visitor(queue, ticket(f"{side}-{n:03}", f"tenant-{side}"), log))
    redis_server.kill()
    await asyncio.gather(*(until(lambda queue=queue: _is_degraded(queue, True)) for queue in queues))
    by_id = {visitor.ticket.id: visitor for visitor in visitors}
    for _ in range(30):
        await by_id[await log.get()].leave()
    redis_server.start()
    returned_s = let_run_s()
    await asyncio.gather(*(until(lambda queue=queue: _is_complete(queue, 300 - 30)) for queue in queues))
    assert let_run_s() - returned_s < 2.0
    order = []
    while len(order) < 270:
        order.append(await log.get())
        await by_id[order[-1]].leave()
    for side in "01":
        own = [name for name in order if name.startswith(side)]
        assert own == sorted(own)
    assert "".join(name[0] for name in order[10:210]) in "01" * 101, "turn by turn"


async def _is_complete(queue, requests: int) -> bool:
    """Whether the queue shares one line with the other, in which all requests stand."""
    if queue.is_degraded:
        return False
    occupancy = await queue.occupancy()
    return not queue.is_degraded and occupancy.in_flight + occupancy.waiting == requests


async def test_places_are_told_from_the_line_that_one_waits_in(redis_server, gateways):
    """And whoever waits for a look when Redis goes is not left waiting for one that never comes."""
    queue = await gateways(slots=1)
    visitors = await enter_in_order(queue, [ticket(f"t{n}") for n in range(3)])
    async with asyncio.timeout(10):
        while queue.place("t2") is None:
            await queue.looked()
        assert queue.place("t2").position == 2
        looked = asyncio.create_task(queue.looked())
        redis_server.kill()
        try:
            await until(lambda: _is_degraded(queue, True))
            await looked
            while queue.place("t2") is None:
                await queue.looked()
            assert queue.place("t2").position == 2
            assert (await queue.whereabouts("t1")).is_waiting
        finally:
            redis_server.start()
        await until(lambda: _is_degraded(queue, False))
    for visitor in visitors:
        await visitor.leave()
