"""The admission queue of one process: alone on a single gateway, and what a gateway falls back on without Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from gateway.core.scheduling import DrainRate, Line, Ticket, line_full
from gateway.errors import Refused, StoreUnavailable
from gateway.ports.queue import Occupancy


class MemoryQueue:
    """
    An AdmissionQueue in memory. Every change is decided without awaiting, so nothing can come in between.

    *clock* gives monotonic seconds.
    """

    def __init__(self, pool: str, *, waiting_max: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self.pool = pool
        self._waiting_max = waiting_max
        self._clock = clock
        self._slots = 0
        self._line = Line()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._in_flight: dict[str, Ticket] = {}
        self._granted = 0
        self._drain = DrainRate()

    @asynccontextmanager
    async def slot(self, ticket: Ticket) -> AsyncIterator[None]:
        await self.enter(ticket)
        try:
            yield
        finally:
            self.leave(ticket)

    async def enter(self, ticket: Ticket, *, is_bounded: bool = True) -> None:
        """Wait for a slot, which `leave` gives back. A ticket that had its place before is let in unbounded."""
        assert ticket.id not in self._in_flight, f"the ticket {ticket.id} is in flight already"
        if is_bounded and len(self._line) >= self._waiting_max and not self._has_free_slot:
            raise self._refusal()
        granted = asyncio.get_running_loop().create_future()
        self._line.enter(ticket)
        self._waiting[ticket.id] = granted
        self._admit()
        try:
            await granted
        except BaseException:
            self.leave(ticket)  # wherever it is: cancelled in the very instant of the grant, it is in flight
            raise

    def leave(self, ticket: Ticket) -> None:
        """Give back the slot or the place in line of *ticket*, if it has one here."""
        if self._in_flight.pop(ticket.id, None) is None:
            self._line.leave(ticket.id)
            self._waiting.pop(ticket.id, None)
        self._admit()

    def set_slots(self, slots: int) -> None:
        self._slots = slots
        self._admit()

    def adopt(self, tickets: Iterable[Ticket]) -> None:
        """Count tickets that were granted elsewhere as in flight here, until they leave."""
        self._in_flight.update((ticket.id, ticket) for ticket in tickets)

    def evict(self) -> None:
        """Send everyone who waits away, in order of arrival: their `enter` raises StoreUnavailable."""
        leaving, self._waiting = self._waiting, {}
        for ticket_id, granted in leaving.items():
            self._line.leave(ticket_id)
            if not granted.done():
                granted.set_exception(StoreUnavailable("the local line", "its tickets move to the shared one"))

    async def occupancy(self) -> Occupancy:
        return Occupancy(in_flight=len(self._in_flight), waiting=len(self._waiting), slots=self._slots)

    async def start(self) -> None:
        """Nothing to start: no one shares this line."""

    async def aclose(self) -> None:
        """Nothing to give back: the line ends with its process."""

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return len(self._waiting)

    @property
    def _has_free_slot(self) -> bool:
        return len(self._in_flight) < self._slots

    def _admit(self) -> None:
        """Give free slots to the tickets whose turn it is. Called after every change; never awaits."""
        self._drain.observe(self._clock(), self._granted)
        while self._has_free_slot and (ticket := self._line.next()):
            granted = self._waiting.pop(ticket.id)
            if not granted.done():  # done here means cancelled: its owner has left and not yet said so
                self._in_flight[ticket.id] = ticket
                self._granted += 1
                granted.set_result(None)

    def _refusal(self) -> Refused:
        retry_after_s = self._drain.retry_after_s(self._clock(), self._granted, len(self._line))
        return line_full(self.pool, self._waiting_max, retry_after_s)

    def __repr__(self) -> str:
        occupancy = f"{len(self._in_flight)} in flight, {len(self._waiting)} waiting, {self._slots} slots"
        return f"<MemoryQueue {self.pool} [{occupancy}]>"
