"""What every AdmissionQueue does, in memory, over Redis, and over Redis with memory to fall back on."""

import asyncio
import random

import pytest

from gateway.core.directory import ServiceClass
from gateway.core.outcome import Outcome
from gateway.errors import Refused
from gateway.ports.queue import Occupancy
from tests.conformance.queues import Visitor, enter_in_order, handed_on, ticket

INTERACTIVE, STANDARD, BATCH = ServiceClass


async def served_in_order(make_queue, tickets) -> list[str]:
    """Let *tickets* wait for the one slot, then hand it from one to the next; give the order they had it in."""
    queue, log = await make_queue(slots=1), asyncio.Queue()
    first = Visitor(queue, ticket("first", "nobody", INTERACTIVE))
    await first.admitted.wait()
    visitors = await enter_in_order(queue, tickets, log)
    await first.leave()
    return await handed_on(log, visitors)


async def test_a_free_slot_is_had_at_once(make_queue):
    queue = await make_queue(slots=2)
    async with queue.slot(ticket("a")), queue.slot(ticket("b")):
        assert await queue.occupancy() == Occupancy(in_flight=2, waiting=0, slots=2)
    assert await queue.occupancy() == Occupancy(in_flight=0, waiting=0, slots=2)


async def test_one_tenant_is_served_first_come_first_served(make_queue):
    tickets = [ticket(f"t{n:02}") for n in range(12)]
    assert await served_in_order(make_queue, tickets) == [t.id for t in tickets]


async def test_tenants_take_turns_however_many_tickets_one_of_them_has(make_queue):
    flood = [ticket(f"flood-{n}", "flooder") for n in range(6)]
    quiet = [ticket("quiet-0", "quiet"), ticket("quiet-1", "quiet")]
    other = [ticket("other-0", "other")]
    assert await served_in_order(make_queue, [*flood, *quiet, *other]) == [
        *("flood-0", "quiet-0", "other-0"),
        *("flood-1", "quiet-1"),
        *("flood-2", "flood-3", "flood-4", "flood-5"),
    ]


async def test_a_more_urgent_class_goes_first_but_for_the_reserve_of_the_others(make_queue):
    """A tenth of the work goes to the standard class while it waits, a twentieth to batches."""
    batches = [ticket(f"b{n}", "acme", BATCH) for n in range(2)]
    standard = [ticket(f"s{n}", "acme", STANDARD) for n in range(3)]
    urgent = [ticket(f"i{n}", "acme", INTERACTIVE) for n in range(19)]
    assert " ".join(await served_in_order(make_queue, [*batches, *standard, *urgent])) == (
        "i0 s0 b0 i1 i2 i3 i4 i5 i6 i7 i8 s1 i9 i10 i11 i12 i13 i14 i15 i16 i17 s2 b1 i18"
    )


async def test_users_of_a_tenant_take_turns_and_share_what_it_gets(make_queue):
    flood = [ticket(f"flood-{n}", "acme", user="flooder") for n in range(4)]
    quiet = [ticket(f"quiet-{n}", "acme", user="quiet") for n in range(2)]
    other = [ticket(f"other-{n}", "globex") for n in range(3)]
    assert await served_in_order(make_queue, [*flood, *quiet, *other]) == [
        *("flood-0", "other-0", "quiet-0", "other-1", "flood-1", "other-2"),
        *("quiet-1", "flood-2", "flood-3"),
    ]


async def test_names_of_users_are_only_compared(make_queue):
    """Whatever callers put there: bytes that a store means something by, halves of a character, nothing, a novel."""
    names = ["", "\0", "\0\0", "a\0b", "a", "\1", "\udc80", "ü", "x" * 5000]
    tickets = [ticket(f"{n}-{turn}", user=name) for turn in range(2) for n, name in enumerate(names)]
    assert await served_in_order(make_queue, tickets) == [one.id for one in tickets]


async def test_of_one_user_the_earliest_deadline_is_first(make_queue):
    deadlines = {
        "patient": 2**53 - 1,
        "late": 4_000_000_000_000,
        "soon": 3_999_999_999_999,
        "as late": 4_000_000_000_000,
    }
    tickets = [ticket(name, deadline_ms=deadline_ms) for name, deadline_ms in deadlines.items()]
    assert await served_in_order(make_queue, tickets) == ["soon", "late", "as late", "patient"]


async def test_tenants_share_work_and_not_tickets_by_their_weights(make_queue):
    long = [ticket(f"l{n}", "long", work=300) for n in range(3)]
    short = [ticket(f"s{n}", "short", work=100) for n in range(7)]
    heavy = [ticket(f"h{n}", "heavy", work=300, weight=3) for n in range(7)]
    assert " ".join(await served_in_order(make_queue, [*long, *short, *heavy])) == (
        "l0 s0 h0 s1 h1 s2 h2 l1 s3 h3 s4 h4 s5 h5 l2 s6 h6"
    )


async def test_what_a_ticket_really_cost_is_settled_when_it_leaves(make_queue):
    """Predicted at 100 each; the first of *thrifty* cost 10, so that it has more turns until it is even."""
    queue, log = await make_queue(slots=1), asyncio.Queue()
    holder = Visitor(queue, ticket("holder", "nobody", INTERACTIVE))
    await holder.admitted.wait()
    visitors = await enter_in_order(queue, [ticket(f"o{n}", "other", work=100) for n in range(2)], log)
    thrifty = [Visitor(queue, ticket(f"t{n}", "thrifty", work=100), log, spent=10) for n in range(12)]
    await asyncio.sleep(0)
    await queue.occupancy()
    await holder.leave()
    assert " ".join(await handed_on(log, [*visitors, *thrifty])) == "o0 t0 t1 t2 t3 t4 t5 t6 t7 t8 t9 o1 t10 t11"


async def test_a_tenant_that_returns_has_earned_no_credit_by_its_absence(make_queue):
    queue, log = await make_queue(slots=1), asyncio.Queue()
    busy = await enter_in_order(queue, [ticket(f"busy-{n}", "busy") for n in range(8)], log)
    assert await handed_on(log, busy[:4]) == ["busy-0", "busy-1", "busy-2", "busy-3"]
    late = await enter_in_order(queue, [ticket(f"late-{n}", "late") for n in range(3)], log)
    order = await handed_on(log, [*busy[4:], *late])
    assert order == ["busy-4", "busy-5", "late-0", "busy-6", "late-1", "busy-7", "late-2"]


async def test_a_tenant_that_had_the_slots_to_itself_owes_nothing(make_queue):
    """While nobody else waits, being served costs nothing against those who come later."""
    queue, log = await make_queue(slots=1), asyncio.Queue()
    for n in range(5):
        async with queue.slot(ticket(f"alone-{n}", "early")):
            pass
    holder = Visitor(queue, ticket("holder", "nobody", INTERACTIVE))
    await holder.admitted.wait()
    visitors = await enter_in_order(queue, [ticket(f"early-{n}", "early") for n in range(3)], log)
    visitors += await enter_in_order(queue, [ticket(f"late-{n}", "late") for n in range(3)], log)
    await holder.leave()
    assert await handed_on(log, visitors) == ["early-0", "late-0", "early-1", "late-1", "early-2", "late-2"]


async def test_a_ticket_that_hangs_up_costs_its_tenant_nothing(make_queue):
    queue, log = await make_queue(slots=1), asyncio.Queue()
    holder = Visitor(queue, ticket("holder", "nobody", INTERACTIVE))
    await holder.admitted.wait()
    hasty = await enter_in_order(queue, [ticket(f"hasty-{n}", "hasty") for n in range(4)], log)
    patient = await enter_in_order(queue, [ticket(f"patient-{n}", "patient") for n in range(2)], log)
    for visitor in hasty[:3]:
        await visitor.cancel()
    await holder.leave()
    assert await handed_on(log, [hasty[3], *patient]) == ["hasty-3", "patient-0", "patient-1"]


async def test_a_full_line_refuses_and_says_when_to_come_again(make_queue):
    queue = await make_queue(slots=1, waiting_max=2)
    visitors = await enter_in_order(queue, [ticket(f"t{n}", f"tenant-{n}") for n in range(3)])
    with pytest.raises(Refused, match=r"'qwen' is full: 2 requests wait") as refusal:
        async with queue.slot(ticket("one too many")):
            pytest.fail("admitted")
    assert refusal.value.outcome is Outcome.QUEUE_FULL
    assert refusal.value.limit["name"] == "queue_full"
    assert 1 <= refusal.value.retry_after_s <= 60
    assert await queue.occupancy() == Occupancy(in_flight=1, waiting=2, slots=1)
    for visitor in visitors:
        await visitor.leave()


async def test_a_tenant_may_fill_its_share_of_the_line_and_others_still_come_in(make_queue):
    queue = await make_queue(slots=1, waiting_max=6, tenant_share=0.5)
    visitors = await enter_in_order(queue, [ticket(f"t{n}", "flooder", ServiceClass(n % 3)) for n in range(4)])
    with pytest.raises(Refused, match=r"'flooder' has 3 requests waiting in the line of the pool 'qwen'") as refusal:
        await queue.slot(ticket("one too many", "flooder")).__aenter__()
    assert refusal.value.code == "tenant_queue_full"
    visitors += await enter_in_order(queue, [ticket("quiet", "quiet")])
    assert await queue.occupancy() == Occupancy(in_flight=1, waiting=4, slots=1)
    await asyncio.gather(*(visitor.leave() for visitor in visitors))


async def test_where_nobody_may_wait_a_free_slot_is_still_given(make_queue):
    queue = await make_queue(slots=1, waiting_max=0)
    async with queue.slot(ticket("a")):
        with pytest.raises(Refused):
            await queue.slot(ticket("b")).__aenter__()


async def test_a_ticket_that_hangs_up_leaves_its_place_to_the_next(make_queue):
    queue = await make_queue(slots=1)
    first, gone, last = await enter_in_order(queue, [ticket("first"), ticket("gone"), ticket("last")])
    await gone.cancel()
    assert await queue.occupancy() == Occupancy(in_flight=1, waiting=1, slots=1)
    await first.leave()
    await last.leave()
    assert not gone.admitted.is_set()


async def test_a_ticket_granted_at_the_very_moment_its_owner_leaves_goes_to_the_next(make_queue):
    """Two are granted in one step; the first to run cancels the second, which has its slot and does not know it yet."""
    queue = await make_queue(slots=0)

    async def cancel_the_other() -> None:
        async with queue.slot(ticket("first")):
            leaving.task.cancel()
            await asyncio.wait({leaving.task})

    first = asyncio.create_task(cancel_the_other())
    leaving, last = await enter_in_order(queue, [ticket("leaving"), ticket("last")])
    queue.set_slots(2)
    await first
    assert leaving.task.cancelled()
    assert not leaving.admitted.is_set()
    await last.leave()


async def test_a_slot_freed_by_an_error_in_the_block_is_granted_on(make_queue):
    queue = await make_queue(slots=1)
    with pytest.raises(ZeroDivisionError):
        async with queue.slot(ticket("a")):
            raise ZeroDivisionError
    async with queue.slot(ticket("b")):
        pass


async def test_more_slots_admit_those_who_wait(make_queue):
    queue = await make_queue(slots=0)
    visitors = await enter_in_order(queue, [ticket(f"t{n}") for n in range(3)])
    assert await queue.occupancy() == Occupancy(in_flight=0, waiting=3, slots=0)
    queue.set_slots(2)
    await asyncio.gather(visitors[0].admitted.wait(), visitors[1].admitted.wait())
    assert await queue.occupancy() == Occupancy(in_flight=2, waiting=1, slots=2)
    for visitor in visitors:
        await visitor.leave()


async def test_fewer_slots_revoke_nothing_and_grant_nothing_until_enough_have_left(make_queue):
    queue = await make_queue(slots=3)
    visitors = await enter_in_order(queue, [ticket(f"t{n}") for n in range(4)])
    queue.set_slots(1)
    assert await queue.occupancy() == Occupancy(in_flight=3, waiting=1, slots=1)
    for visitor in visitors[:2]:
        await visitor.leave()
    assert await queue.occupancy() == Occupancy(in_flight=1, waiting=1, slots=1)
    for visitor in visitors[2:]:
        await visitor.leave()


async def test_two_thousand_parallel_tickets_are_all_served_within_the_slots(make_queue):
    queue, in_flight, in_flight_max, served = await make_queue(slots=50), 0, 0, 0

    async def visit(n: int) -> None:
        nonlocal in_flight, in_flight_max, served
        async with queue.slot(ticket(f"t{n}", f"tenant-{n % 17}", ServiceClass(n % 3))):
            in_flight += 1
            in_flight_max = max(in_flight_max, in_flight)
            await asyncio.sleep(0)
            in_flight -= 1
            served += 1

    await asyncio.gather(*(visit(n) for n in range(2000)))
    assert served == 2000
    assert in_flight_max <= 50


@pytest.mark.parametrize("seed", range(8))
async def test_hanging_up_at_random_instants_leaves_nothing_behind(make_queue, seed):
    """Sixty requests, most of which are cancelled somewhere on their way in, inside, or on their way out."""
    chance = random.Random(seed)
    queue = await make_queue(slots=3)

    async def visit(n: int) -> None:
        async with queue.slot(ticket(f"t{n}", f"tenant-{n % 4}")):
            await asyncio.sleep(chance.choice([0, 0.001, 0.003]))

    tasks = [asyncio.create_task(visit(n)) for n in range(60)]
    for task in chance.sample(tasks, 45):
        await asyncio.sleep(chance.choice([0, 0, 0, 0.0005, 0.002]))
        task.cancel()
    await asyncio.wait(tasks)
    assert await queue.occupancy() == Occupancy(in_flight=0, waiting=0, slots=3)
