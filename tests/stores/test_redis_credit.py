"""Credit: slots that gateways have leased, what they save, and who gets them when somebody waits."""

import asyncio

import pytest
import redis

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import Held, LineBounds
from gateway.ports.queue import Occupancy
from gateway.settings import QueueSettings
from gateway.stores.redis import RedisQueue
from gateway.stores.redis_books import IDLE_S, WANTED_MIN, Corrections, Credit
from gateway.stores.redis_client import connect
from gateway.stores.redis_line import Books, RedisLine
from gateway.stores.redis_sight import standing_of
from tests.conformance.queues import POOL, Visitor, enter_in_order, queues_over, ticket, until
from tests.waiting import let_run_s

pytestmark = pytest.mark.redis

FAR_S = 30.0  # a lease so long that no heartbeat comes in between


@pytest.fixture
async def gateways(redis_url):
    """Make gateways' queues over one Redis; at the end each must be empty."""
    async with queues_over(redis_url) as make:
        yield make


def calls(client) -> int:
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval", "blpop"))


async def test_requests_that_nobody_waits_before_cost_next_to_no_calls(gateways, redis_url):
    """At 150 requests/s and more, at most one call, of whatever kind, for ten requests."""
    queue = await gateways(slots=256)

    async def visit(n: int) -> None:
        async with queue.slot(ticket(f"t{n}", f"tenant-{n % 5}")):
            await asyncio.sleep(0.2)

    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        visits = []
        for n in range(300):
            visits.append(asyncio.create_task(visit(n)))
            await asyncio.sleep(1 / 200)
        await asyncio.gather(*visits)
        assert calls(client) <= 300 * 0.1


async def test_a_request_on_credit_makes_no_call(gateways, redis_url):
    queue = await gateways(slots=4, lease_s=FAR_S)
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        async with queue.slot(ticket("a")):
            assert "cmdstat_evalsha" not in client.info("commandstats")


async def test_credit_that_another_gateway_does_not_use_is_had_back_at_once(gateways):
    """No heartbeat comes for ten seconds, and the other gateway has nothing to do: it is called upon."""
    idle, busy = await gateways(slots=2, lease_s=FAR_S), await gateways(slots=2, lease_s=FAR_S)
    began_s = let_run_s()
    visitors = await enter_in_order(busy, [ticket("first"), ticket("second")])
    await asyncio.gather(*(visitor.admitted.wait() for visitor in visitors))
    assert let_run_s() - began_s < 1.0
    assert not idle._credit.has_free(0.0)
    for visitor in visitors:
        await visitor.leave()


async def test_who_gives_back_a_slot_on_credit_wakes_who_waits_at_another_gateway(gateways):
    left, right = await gateways(slots=1, lease_s=FAR_S), await gateways(slots=1, lease_s=FAR_S)
    [holder] = await enter_in_order(left, [ticket("holder")])
    [waits] = await enter_in_order(right, [ticket("waits")])
    assert left._credit.used, "it began without asking"
    await left.occupancy()
    began_s = let_run_s()
    await holder.leave()
    await waits.leave()
    assert let_run_s() - began_s < 1.0


async def test_the_credit_of_a_killed_gateway_is_back_within_five_seconds(gateways, redis_url):
    """By the settings' defaults; what it used of it and what it did not."""
    client, settings = connect(redis_url), QueueSettings()
    doomed = RedisQueue(client, POOL, owner="doomed", lease_s=settings.lease_s)
    doomed.set_slots(12)
    await doomed.start()
    held = await enter_in_order(doomed, [ticket(f"held-{n}") for n in range(4)])
    survivor = await gateways(slots=12)
    heirs = await enter_in_order(survivor, [ticket(f"heir-{n}") for n in range(12)])
    killed_s = let_run_s()
    for task in doomed._tasks:
        task.cancel()
    await client.aclose()
    await asyncio.gather(*(heir.admitted.wait() for heir in heirs))
    assert let_run_s() - killed_s < 5.0
    for heir in heirs:
        await heir.leave()
    for visitor in held:
        await visitor.cancel()


async def test_no_slot_is_given_twice_while_credit_comes_and_goes(gateways):
    queues = [await gateways(slots=20) for _ in range(3)]
    in_flight, in_flight_max, on_credit = 0, 0, 0

    async def visit(n: int, stay_s: float) -> None:
        nonlocal in_flight, in_flight_max, on_credit
        queue = queues[n % 3]
        async with queue.slot(ticket(f"t{n}", f"tenant-{n % 7}", ServiceClass(n % 3))):
            on_credit += f"t{n}" in queue._credit.used
            in_flight += 1
            in_flight_max = max(in_flight_max, in_flight)
            await asyncio.sleep(stay_s)
            in_flight -= 1

    async def come(numbers: range, every_s: float, stay_s: float) -> None:
        async with asyncio.TaskGroup() as visits:
            for n in numbers:
                visits.create_task(visit(n, stay_s))
                await asyncio.sleep(every_s)

    for round_ in range(3):  # plenty, just enough, and want
        first = 500 * round_
        await come(range(first, first + 30), 0.01, 0.001)
        await come(range(first + 30, first + 200), 0.003, 0.03)
        await come(range(first + 200, first + 500), 0.0, 0.01)
    assert in_flight_max == 20
    assert 3 * 10 < on_credit < 1400, "both ways were taken"


async def test_while_redis_is_told_what_is_used_no_more_is(redis_server, gateways):
    """The rest is on offer for the time of the call: Redis may be granting it on."""
    queue = await gateways(slots=4, lease_s=FAR_S, store_timeout_s=10.0)
    with redis_server.frozen():
        asking = asyncio.create_task(queue.occupancy())
        await asyncio.sleep(0)
        await until(lambda: _is_offered(queue))
        visitor = Visitor(queue, ticket("a"))
        done, _ = await asyncio.wait({asking, visitor.task}, timeout=0.2)
        assert not done
        assert not visitor.admitted.is_set()
    assert await asking == Occupancy(in_flight=0, waiting=0, slots=4)
    await visitor.admitted.wait()
    assert visitor.ticket.id in queue._credit.used, "it had not been told of, so the credit that came serves"
    await visitor.leave()


async def test_when_the_slots_go_no_request_starts_on_what_was_lent(gateways):
    queue = await gateways(slots=4)
    assert queue._credit.has_free(0.0)
    queue.set_slots(0)
    [visitor] = await enter_in_order(queue, [ticket("a")])
    assert await queue.occupancy() == Occupancy(in_flight=0, waiting=1, slots=0)
    queue.set_slots(1)
    await visitor.leave()


async def _is_offered(queue) -> bool:
    return not queue._credit.has_free(0.0)


async def test_looking_elsewhere_finds_tickets_and_their_places(gateways):
    left, right = await gateways(slots=1), await gateways(slots=1)
    holder, first, second = await enter_in_order(left, [ticket(f"t{n}", f"tenant-{n}") for n in range(3)])
    assert (await right.whereabouts("t1")).is_waiting
    async with asyncio.timeout(5):
        await right.looked()
    found = await right.whereabouts("t2")
    assert (found.tenant, found.is_waiting, found.place.position, found.place.waiting) == ("tenant-2", True, 2, 2)
    assert right.place("t2") is None, "it does not wait here"
    assert await right.whereabouts("nobody") is None
    await holder.leave()
    await first.admitted.wait()
    found = await right.whereabouts("t1")
    assert (found.tenant, found.is_waiting, found.place) == ("tenant-1", False, None)
    await first.leave()
    await second.leave()


async def test_corrections_told_twice_count_once(redis_url):
    """A call whose answer was lost is told again."""
    client = connect(redis_url)
    line = RedisLine(client, POOL, "gateway", lease_s=FAR_S, bounds=LineBounds(waiting_max=9, tenant_share=1.0))
    await line.claim(Books(), [], [])
    await line.sync(Books(), entering=[(ticket("waits", "acme", user="ann"), True)])
    books = Books(batch=1, corrections=[(1, "acme", "ann", 700)])
    await line.sync(books)
    await line.claim(books, [], ["waits"])
    assert [standing_of(entry).counter for entry in (await line.look()).rounds] == [700, 700]
    await line.retire()
    await client.aclose()


# What a gateway writes down between two calls.


def test_credit_is_had_until_the_lease_ends():
    credit = Credit()
    assert not credit.has_free(0.0)
    credit.take(1, ends_s=3.0)
    assert credit.has_free(2.9)
    assert not credit.has_free(3.0), "others may have it by then"


def test_credit_that_was_offered_is_not_had_until_the_answer():
    credit = Credit()
    credit.take(3, ends_s=9.0)
    credit.start(ticket("a"), 0.0)
    assert credit.offer() == 1
    assert not credit.has_free(0.0)
    assert credit.give_back("a")
    assert not credit.give_back("a")
    assert credit.has_free(0.0), "Redis counts that one as used"


def test_credit_is_wanted_for_two_windows_at_the_busiest_rate_and_not_when_idle():
    credit = Credit()
    assert credit.wanted(0.0) == WANTED_MIN
    for n in range(40):
        credit.start(ticket(f"t{n}"), n * 0.00375)
    assert credit.wanted(0.15) == 80
    credit.start(ticket("later"), 1.0)
    assert credit.wanted(1.0) == 80
    assert credit.wanted(1.0 + IDLE_S + 0.1) == 0


def test_corrections_are_told_again_until_they_are_heard():
    corrections, spent = Corrections(), [7]
    held = Held(ticket("a", "acme", weight=2), charged=4, spent=lambda: spent[0])
    assert corrections.tell() == (0, [])
    assert corrections.note(held, is_over=False)
    assert corrections.tell() == (1, [(1, "acme", "", 150)])
    spent[0] = 6
    assert not corrections.note(held, is_over=False), "it only rises on the way"
    corrections.note(held, is_over=True)
    assert corrections.tell() == (1, [(1, "acme", "", 150)])
    corrections.heard()
    assert corrections.tell() == (2, [(1, "acme", "", -50)])
