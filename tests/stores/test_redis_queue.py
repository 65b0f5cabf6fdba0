"""Gateways that share one line through Redis: their deaths, their doubts, and Redis's own."""

import asyncio
import time
from contextlib import asynccontextmanager, suppress

import pytest
import redis

from gateway.core.scheduling import LineBounds
from gateway.errors import StoreUnavailable
from gateway.ports.queue import Occupancy
from gateway.settings import QueueSettings
from gateway.stores.redis import BEATS_PER_LEASE, RedisQueue
from gateway.stores.redis_client import connect
from gateway.stores.redis_line import Books, RedisLine
from tests.conformance.queues import POOL, Visitor, enter_in_order, handed_on, open_queue, queues_over, ticket, until
from tests.servers.redis_server import RedisServer
from tests.waiting import let_run_s

pytestmark = pytest.mark.redis

LEASE_S = 0.6  # short, so that the dead are found soon; a third of it is well above a call's time
TIMEOUT_S = 0.3


@pytest.fixture
async def gateways(redis_url):
    """Make gateways' queues over one Redis; at the end each must be empty."""
    async with queues_over(redis_url, lease_s=LEASE_S, store_timeout_s=TIMEOUT_S) as make:
        yield make


@asynccontextmanager
async def doomed_gateway(redis_url, **options):
    """A gateway whose process is killed when the block is left: all its tasks and connections end, nothing is told."""
    client = connect(redis_url)
    queue = RedisQueue(client, POOL, owner="doomed", lease_s=LEASE_S, store_timeout_s=TIMEOUT_S, **options)
    await queue.start()
    try:
        yield queue
    finally:
        for task in queue._tasks:
            task.cancel()
        await client.aclose()


async def until_occupied(queue, in_flight: int, waiting: int, within_s: float = 10.0) -> None:
    async def is_so() -> bool:
        occupancy = await queue.occupancy()
        return (occupancy.in_flight, occupancy.waiting) == (in_flight, waiting)

    await until(is_so, within_s)


async def test_two_gateways_share_one_order(gateways):
    left, right = await gateways(slots=1), await gateways(slots=1)
    log: asyncio.Queue[str] = asyncio.Queue()
    visitors = []
    for n in range(3):
        visitors += await enter_in_order(left, [ticket(f"left-{n}", "acme")], log)
        visitors += await enter_in_order(right, [ticket(f"right-{n}", "acme")], log)
    assert await handed_on(log, visitors) == ["left-0", "right-0", "left-1", "right-1", "left-2", "right-2"]


async def test_tenants_take_turns_over_all_gateways_together(gateways):
    left, right = await gateways(slots=1), await gateways(slots=1)
    log: asyncio.Queue[str] = asyncio.Queue()
    flood = await enter_in_order(left, [ticket(f"flood-{n}", "flooder") for n in range(4)], log)
    quiet = await enter_in_order(right, [ticket("quiet", "quiet")], log)
    assert await handed_on(log, [*flood, *quiet]) == ["flood-0", "flood-1", "quiet", "flood-2", "flood-3"]


async def test_tickets_that_come_and_go_together_share_calls(gateways, redis_url):
    queue = await gateways(slots=2000)
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        visitors = await enter_in_order(queue, [ticket(f"t{n}") for n in range(2000)])
        await asyncio.gather(*(visitor.leave() for visitor in visitors))
        assert await queue.occupancy() == Occupancy(in_flight=0, waiting=0, slots=2000)
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] < 4000 / 50


async def test_who_waits_takes_one_call_to_enter_and_one_to_leave(gateways, redis_url):
    queue = await gateways(slots=1, lease_s=30.0)
    with redis.Redis.from_url(redis_url) as client:
        [holder] = await enter_in_order(queue, [ticket("holder")])
        client.config_resetstat()
        waits = Visitor(queue, ticket("waits"))
        await until(lambda: _has_tickets(client, 1))
        assert _calls(client) == 1
        await holder.leave()
        await waits.admitted.wait()
        assert _calls(client) == 2
        await waits.leave()
        await until(lambda: _has_tickets(client, 0))
        assert _calls(client) == 3


def _calls(client) -> int:
    return client.info("commandstats")["cmdstat_evalsha"]["calls"]


async def _has_tickets(client, count: int) -> bool:
    return client.hlen(f"sluice:{{{POOL}}}:line:tickets") == count


async def test_what_a_killed_gateway_held_is_granted_on(gateways, redis_url):
    survivor = await gateways(slots=1)
    async with doomed_gateway(redis_url) as doomed:
        held, lost = await enter_in_order(doomed, [ticket("held"), ticket("lost")])
        await held.admitted.wait()
        [heir] = await enter_in_order(survivor, [ticket("heir")])
        killed_s = let_run_s()
    await heir.admitted.wait()
    assert let_run_s() - killed_s < LEASE_S * (1 + 1 / BEATS_PER_LEASE) + 1.0, "a second for a busy machine"
    assert await survivor.occupancy() == Occupancy(in_flight=1, waiting=0, slots=1)
    await heir.leave()
    for visitor in (held, lost):
        await visitor.cancel()


def test_the_longest_lease_that_may_be_set_frees_what_the_dead_held_within_five_seconds():
    """A whole lease, then until another gateway's next heartbeat, then one call. By default: 3 + 1 + 0.5 s."""
    lease_s_max = next(bound.le for bound in QueueSettings.model_fields["lease_s"].metadata if hasattr(bound, "le"))
    assert QueueSettings().lease_s <= lease_s_max
    assert lease_s_max * (1 + 1 / BEATS_PER_LEASE) + QueueSettings().store_timeout_s < 5


async def test_a_gateway_that_was_reaped_states_again_what_it_holds(gateways, redis_url):
    """It slept beyond its lease and its slot was given away: awake, it counts again, and its waiting ticket waits."""
    sleeper, other = await gateways(slots=1), await gateways(slots=1)
    held, waits = await enter_in_order(sleeper, [ticket("held"), ticket("waits")])
    with redis.Redis.from_url(redis_url) as client:
        client.zadd(f"sluice:{{{POOL}}}:line:owners", {sleeper._line.owner: 0})  # its lease is over
        async with other.slot(ticket("other")):
            await until_occupied(other, in_flight=2, waiting=1)
            assert not waits.admitted.is_set()
    assert "1 in flight, 1 waiting" in repr(sleeper)
    await held.leave()
    await waits.leave()


async def test_an_emptied_redis_is_filled_again_with_what_gateways_hold(gateways, redis_url):
    left, right = await gateways(slots=2), await gateways(slots=2)
    held = await enter_in_order(left, [ticket("left")]) + await enter_in_order(right, [ticket("right")])
    waiting = await enter_in_order(left, [ticket("waits-left")]) + await enter_in_order(right, [ticket("waits-right")])
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()

    async def is_complete() -> bool:
        """The first to claim may be given slots that the other has in flight, until that one claims too."""
        occupancy = await right.occupancy()
        return occupancy.in_flight + occupancy.waiting == 4 and occupancy.slots == 2

    await until(is_complete)
    for visitor in (*held, *waiting):
        await visitor.leave()


async def test_a_wake_up_that_died_with_its_connection_is_made_up_for(gateways, redis_url):
    """In one step another owner leaves, which grants the ticket, and the connection that would tell of it dies."""
    queue = await gateways(slots=1, lease_s=30.0)
    client = connect(redis_url)
    other = line_of(client, "other", 30.0)
    [held] = await enter_in_order(queue, [ticket("held")])
    [waits] = await enter_in_order(queue, [ticket("waits")])
    await other.claim(Books(), [ticket("stolen")], [])  # two in flight now, so that the next to leave wakes nobody yet
    await held.leave()
    assert (await queue.occupancy()).in_flight == 1
    with redis.Redis.from_url(redis_url) as raw:
        [listener] = [one["id"] for one in raw.client_list() if one["cmd"] == "blpop"]
        leave = _leave_call(other, "stolen")
        with raw.pipeline(transaction=True) as step:
            step.execute_command(*leave)
            step.delete(f"sluice:{{{POOL}}}:line:wake:{queue._line.owner}")
            step.execute_command("CLIENT", "KILL", "ID", listener)
            step.execute()
    async with asyncio.timeout(5):
        await waits.leave()
    await other.retire()
    await client.aclose()


def _leave_call(line: RedisLine, ticket_id: str) -> list:
    """The command by which an owner of a line says that a ticket leaves."""
    from gateway.stores import redis_line

    script = redis_line._VERBS["sync"]
    return ["EVAL", script._text, len(line._keys), *line._keys, *line._words(Books(), 1, ticket_id)]


async def test_a_call_of_an_older_epoch_changes_nothing(gateways, redis_url):
    """A call that was given up may still be on its way when the next epoch has begun."""
    queue = await gateways(slots=0)
    client = connect(redis_url)
    [waits] = await enter_in_order(queue, [ticket("waits")])
    ghost = line_of(client, queue._line.owner)
    assert await ghost.sync(Books(), entering=[(ticket("ghost"), False)]) is None
    ghost._epoch = 0
    assert await ghost.sync(Books(slots=5), leaving=["waits"]) is None
    assert await queue.occupancy() == Occupancy(in_flight=0, waiting=1, slots=0)
    queue.set_slots(1)
    await waits.leave()
    await client.aclose()


def line_of(client, owner: str, lease_s: float = LEASE_S) -> RedisLine:
    return RedisLine(client, POOL, owner, lease_s=lease_s, bounds=LineBounds(waiting_max=100, tenant_share=1.0))


async def test_the_last_gateway_to_go_leaves_nothing_in_redis(redis_url):
    async with open_queue("redis", redis_url, slots=1) as queue, queue.slot(ticket("a")):
        pass
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == []


async def test_a_gateway_that_closes_gives_back_at_once_what_it_holds(gateways, redis_url):
    stays, client = await gateways(slots=1, lease_s=30.0), connect(redis_url)
    leaves = RedisQueue(client, POOL, owner="leaves", lease_s=30.0)
    await leaves.start()
    [held] = await enter_in_order(leaves, [ticket("held")])
    [heir] = await enter_in_order(stays, [ticket("heir")])
    await leaves.aclose()
    await heir.leave()
    await held.leave()
    await client.aclose()


async def test_everyone_who_waits_learns_promptly_that_redis_died(redis_server, gateways):
    queue = await gateways(slots=1)
    held, *waiting = await enter_in_order(queue, [ticket(f"t{n}") for n in range(4)])
    redis_server.kill()
    try:
        died_s = let_run_s()
        results = await asyncio.gather(*(visitor.task for visitor in waiting), return_exceptions=True)
        assert let_run_s() - died_s < TIMEOUT_S + 0.5
        assert all(isinstance(result, StoreUnavailable) and result.store == "redis" for result in results)
        with pytest.raises(StoreUnavailable):
            await queue.slot(ticket("late")).__aenter__()
        with pytest.raises(StoreUnavailable):
            await queue.occupancy()
        await held.leave()
    finally:
        redis_server.start()
    await until(lambda: _is_up(queue))
    assert await queue.occupancy() == Occupancy(in_flight=0, waiting=0, slots=1), "the slot left meanwhile is free"


async def test_a_redis_that_does_not_answer_is_given_up_after_the_limit(redis_server, gateways):
    queue = await gateways(slots=1, lease_s=30.0)
    [held] = await enter_in_order(queue, [ticket("held")])
    with redis_server.frozen():
        asked_s, began_s = time.monotonic(), let_run_s()
        with pytest.raises(StoreUnavailable, match="no answer within"):
            await queue.slot(ticket("a")).__aenter__()
        assert time.monotonic() - asked_s > TIMEOUT_S * 0.9
        assert let_run_s() - began_s < TIMEOUT_S + 0.5
    await held.leave()
    await until(lambda: _is_empty(queue))


async def test_a_gateway_that_is_busy_itself_does_not_take_redis_for_dead(gateways):
    """A burst may keep the loop from listening for longer than the limit; the answer has long been there."""
    queue = await gateways(slots=1, lease_s=30.0)
    asking = asyncio.create_task(queue.occupancy())
    loop = asyncio.get_running_loop()
    loop.call_later(0, lambda: loop.call_soon(time.sleep, 2 * TIMEOUT_S))
    assert await asking == Occupancy(in_flight=0, waiting=0, slots=1)


async def _is_empty(queue) -> bool:
    """The ghost of the call that was given up must not keep a slot."""
    with suppress(StoreUnavailable):
        return await queue.occupancy() == Occupancy(in_flight=0, waiting=0, slots=1)
    return False


async def _is_up(queue) -> bool:
    return queue.is_up


async def test_all_keys_of_a_pool_lie_in_one_slot_of_a_cluster(tmp_path):
    """A Redis in cluster mode refuses scripts whose keys hash apart."""
    server = RedisServer(tmp_path, "--cluster-enabled", "yes")
    server.start()
    try:
        with redis.Redis.from_url(server.url) as raw:
            raw.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            await until(lambda: _is_cluster_up(raw))
        async with open_queue("redis", server.url, slots=1) as queue:
            held, waits = await enter_in_order(queue, [ticket("held"), ticket("waits")])
            await held.leave()
            await waits.leave()
    finally:
        server.kill()


async def _is_cluster_up(raw) -> bool:
    return b"cluster_state:ok" in raw.execute_command("CLUSTER", "INFO")


async def test_a_gateway_that_died_with_thousands_in_line_is_reaped_in_parts_and_whole(gateways, redis_url):
    """No single call may hold Redis for long; if the dead one wakes meanwhile, it is heard again only by a claim."""
    client = connect(redis_url)
    dead, living = line_of(client, "dead"), line_of(client, "living", 30.0)
    await dead.claim(Books(), [], [])
    for batch in range(9):
        tickets = [ticket(f"t{batch}-{n}", f"tenant-{n % 9}") for n in range(500)]
        await dead.sync(Books(), entering=[(one, False) for one in tickets])
    await living.claim(Books(), [], [])
    with redis.Redis.from_url(redis_url) as raw:
        raw.zadd(f"sluice:{{{POOL}}}:line:owners", {"dead": 0})  # its lease is over
    left = [(await living.sync(Books())).pool.waiting for _ in range(4)]
    assert left == [2500, 500, 0, 0]
    assert await dead.sync(Books()) is None
    await living.retire()
    with redis.Redis.from_url(redis_url) as raw:
        assert raw.keys() == []
    await client.aclose()
