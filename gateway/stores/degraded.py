"""What becomes of the line when its shared store goes away and comes back: no request fails because of it."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from gateway.core.eta import Coming, Place
from gateway.core.scheduling import Ticket
from gateway.errors import StoreUnavailable
from gateway.ports.queue import Occupancy, Whereabouts
from gateway.stores.memory import MemoryQueue
from gateway.stores.redis import RedisQueue


class FallbackQueue:
    """
    An AdmissionQueue that is *shared* while its store answers, and *local* while it does not.

    The local line has this gateway's share of the slots. *shared* probes its store by itself and says when it goes and
    comes; while it is away no request touches it. At either change all who wait move to the other line, in order of
    arrival and whatever its bound. Those in flight stay where they are, and are counted in both lines, so that no slot
    is given twice.
    """

    def __init__(self, shared: RedisQueue, local: MemoryQueue) -> None:
        self._shared = shared
        self._local = local
        self._coming: tuple[Coming, ...] = ()
        shared.watch(self._change_over)

    @asynccontextmanager
    async def slot(self, ticket: Ticket, spent: Callable[[], int] | None = None) -> AsyncIterator[None]:
        try:
            await self._enter(ticket, spent)
            yield
        finally:  # both, always: a change-over may have come between the grant and its owner's cancellation
            self._local.leave(ticket)
            self._shared.leave(ticket)

    def set_slots(self, slots: int, coming: Iterable[Coming] = ()) -> None:
        self._coming = tuple(coming)
        self._shared.set_slots(slots, self._coming)
        if self.is_degraded:
            self._size_local()

    def place(self, ticket_id: str) -> Place | None:
        return self._current.place(ticket_id)

    async def looked(self) -> None:
        """Wait for the next look at the line, or for everyone to move to the other one."""
        await self._current.looked()

    async def whereabouts(self, ticket_id: str) -> Whereabouts | None:
        """Find a ticket of any gateway; of this one alone while degraded."""
        if not self.is_degraded:
            try:
                return await self._shared.whereabouts(ticket_id)
            except StoreUnavailable:
                if not self.is_degraded:
                    raise
        return await self._local.whereabouts(ticket_id)

    async def occupancy(self) -> Occupancy:
        """Count over all gateways; over this one alone while degraded."""
        if not self.is_degraded:
            try:
                return await self._shared.occupancy()
            except StoreUnavailable:
                assert self.is_degraded, "a shared line that fails says so first"
        return await self._local.occupancy()

    async def start(self) -> None:
        await self._local.start()
        await self._shared.start()

    async def aclose(self) -> None:
        await self._shared.aclose()
        await self._local.aclose()

    @property
    def is_degraded(self) -> bool:
        """Whether this gateway goes by its own share of the slots, as the shared store is away."""
        return not self._shared.is_up

    @property
    def _current(self) -> RedisQueue | MemoryQueue:
        return self._local if self.is_degraded else self._shared

    async def _enter(self, ticket: Ticket, spent: Callable[[], int] | None) -> None:
        is_new = True
        while True:
            try:
                if not self.is_degraded:
                    await self._shared.enter(ticket, spent, is_bounded=is_new)
                    return
                await self._local.enter(ticket, spent, is_bounded=is_new)
            except StoreUnavailable:  # the line closed behind us: on to the other one
                is_new = False
            else:
                self._shared.adopt(ticket)
                return

    def _change_over(self) -> None:
        if self.is_degraded:
            self._local.adopt(self._shared.in_flight)
            self._size_local()
        else:
            self._local.evict()

    def _size_local(self) -> None:
        """Give the local line this gateway's share of the slots, and of those that are coming."""
        share = self._shared.slots_share
        coming = (replace(one, slots=self._shared.share_of(one.slots)) for one in self._coming)
        self._local.set_slots(share, coming)

    def __repr__(self) -> str:
        held = f"{len(self._shared.in_flight)} in flight, {self._shared.waiting + self._local.waiting} waiting"
        mode = f"degraded to {self._shared.slots_share} slots" if self.is_degraded else "shared"
        return f"<FallbackQueue {self._shared.pool} [{held}, {mode}]>"
