"""The admission queue of one process: alone on a single gateway, and what a gateway falls back on without Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import structlog

from gateway.core.eta import Coming, Place, PoolCounts
from gateway.core.refusals import bound_reached
from gateway.core.scheduling import TENANT_SHARE, WAITING_MAX, Held, Line, LineBounds, Ticket
from gateway.errors import Refused, StoreUnavailable
from gateway.ports.queue import Occupancy, Whereabouts
from gateway.stores.lookout import Lookout
from gateway.stores.waiter import Waiter

log = structlog.get_logger()


class MemoryQueue:
    """
    An AdmissionQueue in memory. Every change is decided without awaiting, so nothing can come in between.

    *clock* gives Unix seconds; *tenant_share* is the part of the line that one tenant may fill.
    """

    def __init__(
        self,
        pool: str,
        *,
        waiting_max: int = WAITING_MAX,
        tenant_share: float = TENANT_SHARE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pool = pool
        self._bounds = LineBounds(waiting_max=waiting_max, tenant_share=tenant_share)
        self._clock = clock
        self._slots = 0
        self._line = Line()
        self._waiting: dict[str, Waiter] = {}
        self._in_flight: dict[str, Held] = {}
        self._granted = self._completed = 0
        self._lookout = Lookout(pool, clock)
        self._looking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def slot(self, ticket: Ticket, spent: Callable[[], int] | None = None) -> AsyncIterator[None]:
        await self.enter(ticket, spent)
        try:
            yield
        finally:
            self.leave(ticket)

    async def enter(self, ticket: Ticket, spent: Callable[[], int] | None = None, *, is_bounded: bool = True) -> None:
        """Wait for a slot, which `leave` gives back. A ticket that had its place before is let in unbounded."""
        assert ticket.id not in self._in_flight, f"the ticket {ticket.id} is in flight already"
        if self._has_free_slot and not len(self._line):
            self._in_flight[ticket.id] = Held(ticket)
            return
        if is_bounded and (refusal := self._refusal(ticket)):
            raise refusal
        waiter = Waiter(Held(ticket, ticket.work, spent))
        self._line.enter(ticket)
        self._waiting[ticket.id] = waiter
        self._admit()
        try:
            await waiter.granted
        except BaseException:
            self.leave(ticket)  # wherever it is: cancelled in the very instant of the grant, it is in flight
            raise

    def leave(self, ticket: Ticket) -> None:
        """Give back the slot or the place in line of *ticket*, if it has one here."""
        held = self._in_flight.pop(ticket.id, None)
        if held:
            self._completed += 1
            self._settle(held, is_over=True)
        else:
            self._line.leave(ticket.id)
            self._waiting.pop(ticket.id, None)
        self._admit()

    def set_slots(self, slots: int, coming: Iterable[Coming] = ()) -> None:
        self._slots = slots
        self._lookout.forecast.expect(coming)
        self._admit()

    def place(self, ticket_id: str) -> Place | None:
        return self._lookout.place(ticket_id) if ticket_id in self._waiting else None

    async def looked(self) -> None:
        await self._lookout.looked()

    async def whereabouts(self, ticket_id: str) -> Whereabouts | None:
        if held := self._in_flight.get(ticket_id):
            return Whereabouts(held.ticket.tenant, None, is_waiting=False)
        if waiter := self._waiting.get(ticket_id):
            return Whereabouts(waiter.held.ticket.tenant, self.place(ticket_id), is_waiting=True)
        return None

    def adopt(self, tickets: Iterable[Ticket]) -> None:
        """Count tickets that were granted elsewhere as in flight here, until they leave."""
        self._in_flight.update((ticket.id, Held(ticket)) for ticket in tickets)

    def evict(self) -> None:
        """Send everyone who waits away, in order of arrival: their `enter` raises StoreUnavailable."""
        for ticket_id in list(self._waiting):
            self._turn_away(ticket_id, StoreUnavailable("the local line", "its tickets move to the shared one"))
        self._lookout.wake()

    async def occupancy(self) -> Occupancy:
        return Occupancy(in_flight=len(self._in_flight), waiting=len(self._waiting), slots=self._slots)

    async def start(self) -> None:
        self._looking = asyncio.create_task(self._keep_looking(), name=f"looking at {self.pool}")

    async def aclose(self) -> None:
        """Stop looking; there is nothing to give back, the line ends with its process."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return len(self._waiting)

    @property
    def _has_free_slot(self) -> bool:
        return len(self._in_flight) < self._slots

    def _admit(self) -> None:
        """Give free slots to the tickets whose turn it is. Called after every change; never awaits."""
        while self._has_free_slot and (ticket := self._line.next()):
            waiter = self._waiting.pop(ticket.id)
            if not waiter.is_gone:
                self._in_flight[ticket.id] = waiter.held
                self._granted += 1
                waiter.grant()

    def _refusal(self, ticket: Ticket) -> Refused | None:
        self._observe()
        if bound := self._bounds.reached(self._line, ticket.tenant):
            drain_s = self._lookout.forecast.drain_s(self._clock())
            return bound_reached(self.pool, ticket.tenant, bound, self._bounds, drain_s)
        return self._lookout.refuse_newcomer(ticket)

    def _settle(self, held: Held, *, is_over: bool) -> None:
        if work := held.correction(is_over=is_over):
            self._line.settle(held.ticket, work)

    def _turn_away(self, ticket_id: str, reason: Exception) -> None:
        waiter = self._waiting.pop(ticket_id)
        self._line.leave(ticket_id)
        waiter.turn_away(reason)

    # The looks at the line.

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._lookout.pause_s)
            try:
                await self.look()
            except Exception:  # the looks must outlive their bugs: places, waits and refusals come from them
                log.exception("look_failed", pool=self.pool)

    async def look(self) -> None:
        """Settle as tokens flow, find out where everyone stands, and refuse who is too late."""
        for held in self._in_flight.values():
            self._settle(held, is_over=False)
        self._observe()
        await self._lookout.look(self._line.order(), self._granted)
        waiting = [waiter.held.ticket for waiter in self._waiting.values()]
        for ticket, refusal in self._lookout.too_late(waiting):
            self._turn_away(ticket.id, refusal)

    def _observe(self) -> None:
        counts = PoolCounts(
            in_flight=len(self._in_flight),
            waiting=len(self._waiting),
            slots=self._slots,
            granted=self._granted,
            completed=self._completed,
        )
        self._lookout.forecast.observe(self._clock(), counts)

    def __repr__(self) -> str:
        occupancy = f"{len(self._in_flight)} in flight, {len(self._waiting)} waiting, {self._slots} slots"
        return f"<MemoryQueue {self.pool} [{occupancy}]>"
