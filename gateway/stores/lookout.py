"""The lookout of a line: looks at it once in a while, and knows in between who stands where and who is too late."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from gateway.core.eta import LOOK_S, Forecast, Place
from gateway.core.refusals import wait_too_long, waited_too_long
from gateway.core.scheduling import Ticket
from gateway.errors import Refused

LOAD_MAX = 0.05  # of this process's time, for looking: a line of 10,000 is looked at every 2 s
SLICE = 250  # tickets put in order before other tasks get their turn: some 3 ms

T = TypeVar("T")


class Lookout:
    """
    What a queue knows of its line in between looks. *clock* gives Unix seconds.

    The queue owns the looking: it calls `look` with the order of service every `pause_s`.
    """

    def __init__(self, pool: str, clock: Callable[[], float]) -> None:
        self.forecast = Forecast()
        self._pool = pool
        self._clock = clock
        self._next_look: asyncio.Future[None] | None = None
        self._took_s = self._taking_s = 0.0

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look."""
        return max(LOOK_S, self._took_s / LOAD_MAX)

    async def look(self, order: Iterator[Ticket], granted: int) -> None:
        """Take the line's *order* as it was when *granted* tickets had been granted; wake who waits for a look."""
        tickets = await self.sliced(order)
        self.forecast.look(tickets, granted)
        self._took_s, self._taking_s = self._taking_s, 0.0
        self.wake()

    async def sliced(self, steps: Iterable[T]) -> list[T]:
        """Take all of *steps*, which belong to the next look, giving other tasks their turn in between."""
        taken = []
        began_s = time.thread_time()  # on a busy machine time that passes is no measure of what looking costs
        for step in steps:
            taken.append(step)
            if len(taken) % SLICE == 0:
                self._taking_s += time.thread_time() - began_s
                await asyncio.sleep(0)
                began_s = time.thread_time()
        self._taking_s += time.thread_time() - began_s
        return taken

    def wake(self) -> None:
        """Let those go on who wait for a look."""
        if self._next_look:
            self._next_look.set_result(None)
            self._next_look = None

    async def looked(self) -> None:
        """Wait for the next look to end."""
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next_look)

    def place(self, ticket_id: str) -> Place | None:
        """Tell where a ticket stood at the last look, and how long it still has to wait."""
        return self.forecast.place(ticket_id, self._clock())

    def refuse_newcomer(self, ticket: Ticket) -> Refused | None:
        """Refuse a ticket that would not be granted in time if it came now."""
        now_s = self._clock()
        eta_s = self.forecast.newcomer_late_s(ticket, now_s)
        return None if eta_s is None else wait_too_long(self._pool, ticket, eta_s, ticket.deadline_ms / 1000 - now_s)

    def too_late(self, tickets: Iterable[Ticket]) -> list[tuple[Ticket, Refused]]:
        """Find the ones among *tickets*, which wait, that cannot make it any more, and what to tell them."""
        now_s = self._clock()
        found = []
        for ticket in tickets:
            left_s = ticket.deadline_ms / 1000 - now_s
            if left_s <= 0:
                found.append((ticket, waited_too_long(self._pool, ticket, now_s - ticket.arrived_ms / 1000)))
            elif (eta_s := self.forecast.late_s(ticket, now_s)) is not None:
                found.append((ticket, wait_too_long(self._pool, ticket, eta_s, left_s)))
        return found
