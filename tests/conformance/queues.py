"""Queues of every kind, and the moves that tests make with them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import Ticket
from gateway.stores.degraded import FallbackQueue
from gateway.stores.memory import MemoryQueue
from gateway.stores.redis import RedisQueue
from gateway.stores.redis_client import connect
from tests.waiting import let_run_s

POOL = "qwen"
STALLS_S = 10.0  # that a machine may stand still in all, while a condition that hangs is waited for
_owners = count()


@asynccontextmanager
async def open_queue(kind: str, url: str | None, *, slots: int = 0, **options):
    """Open a started queue of *kind* (memory, redis, fallback); at the end it must have nothing left."""
    if kind == "memory":
        redis, queue = None, MemoryQueue(POOL, **options)
    else:
        redis = connect(url)
        queue = RedisQueue(redis, POOL, owner=f"gateway-{next(_owners)}", **options)
    if kind == "fallback":
        queue = FallbackQueue(queue, MemoryQueue(POOL))
    queue.set_slots(slots)
    await queue.start()
    try:
        yield queue
        assert "[0 in flight, 0 waiting" in repr(queue), "every test must hand back what it took"
    finally:
        await queue.aclose()
        if redis:
            await redis.aclose()


@asynccontextmanager
async def queues_over(url: str, kind: str = "redis", **defaults):
    """Give a maker of queues that share one Redis, as gateways do; at the end each must be empty."""
    async with AsyncExitStack() as stack:

        async def make(**options):
            return await stack.enter_async_context(open_queue(kind, url, **{**defaults, **options}))

        yield make


def ticket(
    ticket_id: str, tenant: str = "acme", service_class: ServiceClass = ServiceClass.STANDARD, **fields
) -> Ticket:
    return Ticket(id=ticket_id, tenant=tenant, service_class=service_class, **fields)


class Visitor:
    """
    A request in the queue: waits for its slot, says when it has it, and keeps it until told to leave.

    *spent* is the work it will have done; None: it does not tell.
    """

    def __init__(
        self, queue, its_ticket: Ticket, log: asyncio.Queue[str] | None = None, spent: int | None = None
    ) -> None:
        self.ticket = its_ticket
        self._spent = None if spent is None else lambda: spent
        self.admitted = asyncio.Event()
        self._leave = asyncio.Event()
        self._log = log
        self.task = asyncio.create_task(self._visit(queue))

    async def _visit(self, queue) -> None:
        async with queue.slot(self.ticket, self._spent):
            if self._log is not None:
                self._log.put_nowait(self.ticket.id)
            self.admitted.set()
            await self._leave.wait()

    async def leave(self) -> None:
        """Give the slot back, having waited for it."""
        await self.admitted.wait()
        self._leave.set()
        await self.task

    async def cancel(self) -> None:
        """Hang up, wherever the request is."""
        self.task.cancel()
        await asyncio.wait({self.task})


async def enter_in_order(queue, tickets, log: asyncio.Queue[str] | None = None) -> list[Visitor]:
    """Let visitors enter one after the other; return once the store has them all, waiting or in flight."""
    visitors = [Visitor(queue, one, log) for one in tickets]
    await asyncio.sleep(0)  # each has called `slot`
    await queue.occupancy()
    return visitors


async def handed_on(log: asyncio.Queue[str], visitors: list[Visitor]) -> list[str]:
    """Let each of *visitors* leave as soon as it has its slot; give their order."""
    by_id, order = {visitor.ticket.id: visitor for visitor in visitors}, []
    for _ in visitors:
        order.append(await log.get())
        await by_id[order[-1]].leave()
    return order


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    """Return once *condition* holds; for what another process or Redis's clock decides, and so has no signal."""
    deadline = let_run_s() + within_s
    async with asyncio.timeout(within_s + STALLS_S):
        while not await condition():
            assert let_run_s() < deadline, f"did not happen within {within_s} s"
            await asyncio.sleep(0.01)
