"""What every AdmissionQueue tells those who wait: where they stand, for how long, and that it will not do."""

import asyncio
import time

import pytest

from gateway.core.eta import Coming
from gateway.core.outcome import Outcome
from gateway.core.scheduling import Ticket
from gateway.errors import Refused
from gateway.ports.queue import Whereabouts
from tests.conformance.queues import Visitor, enter_in_order, ticket


def in_ms(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


async def until_seen(queue, last: Ticket) -> None:
    async with asyncio.timeout(10):
        while queue.place(last.id) is None:
            await queue.looked()


async def test_places_follow_the_order_of_service(make_queue):
    queue = await make_queue(slots=1)
    tickets = [ticket("held"), *(ticket(f"a{n}", "acme") for n in range(3)), ticket("g0", "globex")]
    visitors = await enter_in_order(queue, tickets)
    await until_seen(queue, tickets[-1])
    order = ["a0", "g0", "a1", "a2"]
    assert [queue.place(name).position for name in order] == [1, 2, 3, 4]
    assert queue.place("a1").waiting == 4
    assert queue.place("held") is None, "it has its slot"
    assert queue.place("nobody") is None
    await visitors[0].leave()
    by_id = {visitor.ticket.id: visitor for visitor in visitors}
    for name in order:
        await by_id[name].leave()


async def test_a_ticket_is_found_wherever_it_is(make_queue):
    queue = await make_queue(slots=1)
    held, waits = await enter_in_order(queue, [ticket("held", "acme"), ticket("waits", "globex")])
    await until_seen(queue, waits.ticket)
    assert await queue.whereabouts("held") == Whereabouts("acme", None, is_waiting=False)
    found = await queue.whereabouts("waits")
    assert (found.tenant, found.is_waiting, found.place.position) == ("globex", True, 1)
    await held.leave()
    await waits.admitted.wait()
    assert await queue.whereabouts("waits") == Whereabouts("globex", None, is_waiting=False)
    await waits.leave()
    await queue.occupancy()
    assert await queue.whereabouts("waits") is None


async def test_a_wait_for_slots_that_are_coming_is_foretold(make_queue):
    queue = await make_queue(slots=0)
    queue.set_slots(0, [Coming(time.time() + 30, 1), Coming(time.time() + 60, 5)])
    visitors = await enter_in_order(queue, [ticket(f"t{n}", deadline_ms=in_ms(300)) for n in range(3)])
    await until_seen(queue, visitors[-1].ticket)
    assert queue.place("t0").eta_s == pytest.approx(30, abs=5)
    assert queue.place("t2").eta_s == pytest.approx(60, abs=5)
    queue.set_slots(3)
    for visitor in visitors:
        await visitor.leave()


async def test_who_would_come_too_late_is_refused_at_once(make_queue):
    queue = await make_queue(slots=0)
    queue.set_slots(0, [Coming(time.time() + 30, 1)])
    [first] = await enter_in_order(queue, [ticket("first", deadline_ms=in_ms(300))])
    with pytest.raises(Refused, match="is expected in 30 s; this request may wait") as refusal:
        await queue.slot(ticket("hasty", deadline_ms=in_ms(5))).__aenter__()
    assert refusal.value.outcome is Outcome.WAIT_TOO_LONG
    assert refusal.value.limit["eta_s"] == pytest.approx(30, abs=2)
    await first.cancel()


async def test_who_waits_is_refused_when_the_time_is_over(make_queue):
    queue = await make_queue(slots=1)
    async with queue.slot(ticket("held")):
        arrived_ms, visitors = in_ms(0), []
        for n, wait_s in enumerate([0.2, 600]):
            one = ticket(f"t{n}", deadline_ms=in_ms(wait_s), arrived_ms=arrived_ms)
            visitors.append(Visitor(queue, one))
        async with asyncio.timeout(10):
            with pytest.raises(Refused, match="No slot of the pool 'qwen' came free") as refusal:
                await visitors[0].task
        assert refusal.value.outcome is Outcome.WAIT_TOO_LONG
        assert (await queue.occupancy()).waiting == 1, "the other one still waits"
    await visitors[1].leave()
