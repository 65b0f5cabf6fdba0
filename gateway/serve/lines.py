"""
The line in front of one pool, as the requests of this gateway meet it, also while the pool has no worker at all.

A pool that is declared is a promise: while none of its workers is ready (starting, rolling, scaled to zero), requests
wait in its line, each for as long as its class may be held.
"""

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from gateway.core.eta import Coming, Place
from gateway.core.refusals import draining, no_worker
from gateway.core.routing import PoolViews, slots
from gateway.core.scheduling import Ticket
from gateway.ports.queue import AdmissionQueue


class PoolLine:
    """One pool's queue and the requests that wait in front of it here."""

    def __init__(self, pool: str, queue: AdmissionQueue) -> None:
        self.pool = pool
        self.queue = queue
        self.has_capacity = False
        self._holds: set[Hold] = set()
        self._slots = 0

    def resize(self, views: PoolViews, coming: Iterable[Coming]) -> None:
        """Tell the queue how many requests the pool's workers take at once; begin or end holding if that is new."""
        self._slots = slots(views)
        self.queue.set_slots(self._slots, coming)
        if self.has_capacity != bool(self._slots):
            self.has_capacity = bool(self._slots)
            for hold in self._holds:
                hold.end() if self.has_capacity else hold.begin()

    def hold(self, ticket: Ticket, hold_s_max: float) -> "Hold":
        """Limit how long a request may wait without a worker; use it as an async context manager."""
        return Hold(self, ticket, hold_s_max)

    def send_away(self, is_in_vain: Callable[[Place | None], bool]) -> None:
        """End the wait of all that wait here in vain, given where each stands in line, if that is known."""
        for hold in self._holds:
            if is_in_vain(self.queue.place(hold.ticket.id)):
                hold.send_away()

    def join(self, hold: "Hold") -> None:
        """Have *hold* told of changes."""
        self._holds.add(hold)
        if not self.has_capacity:
            hold.begin()

    def leave(self, hold: "Hold") -> None:
        """Tell *hold* of no more changes."""
        self._holds.discard(hold)

    def __repr__(self) -> str:
        return f"<PoolLine {self.pool} [{self._slots} slots, {len(self._holds)} requests here]>"


class Hold:
    """
    Ends the wait inside its block with Refused(NO_WORKER) once no worker could serve it for *hold_s_max*.

    Or with Refused(DRAINING), once the request is sent away.
    """

    def __init__(self, line: PoolLine, ticket: Ticket, hold_s_max: float) -> None:
        self.ticket = ticket
        self._line = line
        self._is_sent_away = False
        self._hold_s_max = hold_s_max
        self._timeout = asyncio.timeout(None)

    def begin(self) -> None:
        """Note that no worker can serve it from now on, unless that is known."""
        if self._timeout.when() is None and not self._is_sent_away:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._hold_s_max)

    def end(self) -> None:
        """Note that there is a worker again."""
        if not self._timeout.expired() and not self._is_sent_away:
            self._timeout.reschedule(None)

    def send_away(self) -> None:
        """Have the request go to another gateway: here its turn would not come."""
        if not self._timeout.expired():
            self._is_sent_away = True
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._line.join(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.leave(self)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as timeout:
            if self._is_sent_away:
                raise draining() from timeout
            raise no_worker(self._line.pool, self.ticket.service_class, self._hold_s_max, None) from timeout
