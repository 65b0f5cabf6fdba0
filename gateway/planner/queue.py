"""
The line of one pool in virtual time.

Order, forecasts and refusals are those of `core/`; this class asks them the same questions in the same order as
MemoryQueue (stores/memory.py) does, with the time as an argument and no event loop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

from gateway.core.eta import Coming, Forecast, PoolCounts
from gateway.core.scheduling import Held, Line, LineBounds, Ticket


class Entry(Enum):
    """What becomes of a ticket when it comes."""

    GRANTED = auto()
    WAITS = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Spent:
    """The work that a ticket does: what tells it *so_far*, and the *total* if it is not cut off."""

    so_far: Callable[[float], int]
    total: int


class VirtualQueue:
    """The slots of one pool and the tickets that wait for them."""

    def __init__(self, bounds: LineBounds) -> None:
        self.slots = 0
        self.forecast = Forecast()
        self._bounds = bounds
        self._now_s = 0.0
        self._line = Line()
        self._waiting: dict[str, Ticket] = {}
        self._in_flight: dict[str, Held] = {}
        self._exceeding: dict[str, Held] = {}  # of those in flight, who will do more work than was predicted
        self._granted = self._completed = 0

    def __repr__(self) -> str:
        return f"<VirtualQueue [{self.in_flight} in flight, {self.waiting} waiting, {self.slots} slots]>"

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def backlog_tokens(self) -> int:
        """The work that waits."""
        return sum(ticket.work for ticket in self._waiting.values())

    def enter(self, ticket: Ticket, now_s: float) -> Entry:
        """Let *ticket* past an empty line into a free slot, else put it in line, else refuse it."""
        if self.in_flight < self.slots and not len(self._line):
            self._in_flight[ticket.id] = Held(ticket)
            return Entry.GRANTED
        if self._is_refused(ticket, now_s):
            return Entry.REFUSED
        self._line.enter(ticket)
        self._waiting[ticket.id] = ticket
        return Entry.WAITS

    def grants(self, spent_by: Callable[[Ticket], Spent]) -> Iterator[Ticket]:
        """Give free slots to the tickets whose turn it is; *spent_by* gives what a ticket does with its slot."""
        while self.in_flight < self.slots and (ticket := self._line.next()):
            del self._waiting[ticket.id]
            spent = spent_by(ticket)
            held = self._in_flight[ticket.id] = Held(ticket, ticket.work, partial(self._so_far, spent))
            if spent.total > ticket.work:
                self._exceeding[ticket.id] = held
            self._granted += 1
            yield ticket

    def leave(self, ticket: Ticket, now_s: float) -> None:
        """Give back the slot or the place in line of *ticket*."""
        if self._waiting.pop(ticket.id, None):
            self._line.leave(ticket.id)
            return
        self._now_s = now_s
        self._exceeding.pop(ticket.id, None)
        self._completed += 1
        self._settle(self._in_flight.pop(ticket.id), is_over=True)

    def expect(self, slots: int, coming: list[Coming]) -> None:
        """Take how many slots there are, and which are expected when."""
        self.slots = slots
        self.forecast.expect(coming)

    def look(self, now_s: float) -> list[Ticket]:
        """Settle as tokens flow, find out where everyone stands, and take out those who are too late."""
        self._now_s = now_s
        for held in self._exceeding.values():  # nobody else's work is ever above what was charged
            self._settle(held, is_over=False)
        self._observe(now_s)
        self.forecast.look(list(self._line.order()), self._granted)
        late = [ticket for ticket in self._waiting.values() if self._is_late(ticket, now_s)]
        for ticket in late:
            self.leave(ticket, now_s)
        return late

    def _so_far(self, spent: Spent) -> int:
        return spent.so_far(self._now_s)

    def _settle(self, held: Held, *, is_over: bool) -> None:
        if work := held.correction(is_over=is_over):
            self._line.settle(held.ticket, work)

    def _is_refused(self, ticket: Ticket, now_s: float) -> bool:
        self._observe(now_s)
        if self._bounds.reached(self._line, ticket.tenant):
            return True
        return self.forecast.newcomer_late_s(ticket, now_s) is not None

    def _is_late(self, ticket: Ticket, now_s: float) -> bool:
        return ticket.deadline_ms / 1000 <= now_s or self.forecast.late_s(ticket, now_s) is not None

    def _observe(self, now_s: float) -> None:
        counts = PoolCounts(
            in_flight=self.in_flight,
            waiting=self.waiting,
            slots=self.slots,
            granted=self._granted,
            completed=self._completed,
        )
        self.forecast.observe(now_s, counts)
