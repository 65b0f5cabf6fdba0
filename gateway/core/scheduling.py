"""
Who is next: the order of tickets in front of a pool, and how long to tell a client to stay away when it is full.

The policy, from the outside in:

1. Classes strictly by urgency: a ticket is taken from the most urgent class that has one.
2. Inside a class a round over tenants by virtual counters (VTC: Sheng et al., "Fairness in Serving Large Language
   Models", OSDI 2024): the backlogged tenant with the smallest counter is next and is charged for the ticket; among
   equal counters the ticket that has waited longest. A tenant that returns is lifted to the smallest counter of those
   that are backlogged (if none is, to that of the last tenant served), so that idleness earns no credit.
3. Inside a tenant first come, first served.

The charge is a parameter: one for each ticket makes it a round over requests, the predicted work makes it one over
tokens. `stores/lua/line.lua` is the same policy over Redis; the conformance suite holds both to the same order.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import ceil

from gateway.core.directory import ServiceClass
from gateway.core.outcome import Outcome
from gateway.errors import Refused

RETRY_AFTER_S_MIN, RETRY_AFTER_S_MAX = 1, 60  # OpenAI's Node SDK obeys no more than 60 s
DRAIN_WINDOW_S = 10.0
DRAIN_SAMPLE_S = 1.0
COUNTERS_KEPT_MIN = 64  # below this, looking for counters to forget costs more than keeping them


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A place in line. *id* is the request's; *work* its predicted cost in tokens."""

    id: str
    tenant: str
    service_class: ServiceClass
    work: int = 1


def one_each(_ticket: Ticket) -> int:
    """Charge every ticket the same: a round over requests."""
    return 1


class Line:
    """The tickets that wait, in the order of the policy above. Entering, leaving and `next` are O(log n)."""

    def __init__(self, charge: Callable[[Ticket], int] = one_each) -> None:
        self._charge = charge
        self._numbers = count()
        self._tickets: dict[str, Ticket] = {}
        self._rounds = tuple(_Round() for _ in ServiceClass)

    def enter(self, ticket: Ticket) -> None:
        """Put *ticket* behind its tenant's others."""
        assert ticket.id not in self._tickets, f"the ticket {ticket.id} is in line already"
        self._tickets[ticket.id] = ticket
        self._rounds[ticket.service_class].enter(next(self._numbers), ticket)

    def leave(self, ticket_id: str) -> bool:
        """Take a ticket out, uncharged; tell whether it was in line."""
        ticket = self._tickets.pop(ticket_id, None)
        if ticket is None:
            return False
        self._rounds[ticket.service_class].leave(ticket)
        return True

    def next(self) -> Ticket | None:
        """Take out the ticket whose turn it is and charge its tenant; None if nobody waits."""
        for round_ in self._rounds:
            if round_.is_backlogged:
                ticket = round_.next(self._charge)
                del self._tickets[ticket.id]
                return ticket
        return None

    def __len__(self) -> int:
        return len(self._tickets)

    def __repr__(self) -> str:
        waiting = ", ".join(f"{len(r)} {c.label}" for c, r in zip(ServiceClass, self._rounds, strict=True))
        return f"<Line [{waiting}]>"


class _Round:
    """The round over the tenants of one class."""

    def __init__(self) -> None:
        self._backlog: dict[str, OrderedDict[str, tuple[int, Ticket]]] = {}
        self._counters: dict[str, int] = {}
        self._counters_max = COUNTERS_KEPT_MIN
        self._floor = 0  # the counter of the last tenant served, before its charge
        # (counter, number of the tenant's first ticket, tenant); an entry that is no longer true is dropped when met
        self._order: list[tuple[int, int, str]] = []

    @property
    def is_backlogged(self) -> bool:
        return bool(self._backlog)

    def enter(self, number: int, ticket: Ticket) -> None:
        queue = self._backlog.get(ticket.tenant)
        if queue is not None:
            queue[ticket.id] = (number, ticket)
            return
        smallest = self._first()[0] if self._backlog else self._floor
        self._counters[ticket.tenant] = max(self._counters.get(ticket.tenant, 0), smallest)
        self._backlog[ticket.tenant] = OrderedDict({ticket.id: (number, ticket)})
        self._line_up(ticket.tenant)

    def leave(self, ticket: Ticket) -> None:
        queue = self._backlog[ticket.tenant]
        was_first = next(iter(queue)) == ticket.id
        del queue[ticket.id]
        if not queue:
            del self._backlog[ticket.tenant]
        elif was_first:
            self._line_up(ticket.tenant)

    def next(self, charge: Callable[[Ticket], int]) -> Ticket:
        self._floor, _, tenant = self._first()
        heapq.heappop(self._order)
        queue = self._backlog[tenant]
        _, (_, ticket) = queue.popitem(last=False)
        self._counters[tenant] += charge(ticket)
        if queue:
            self._line_up(tenant)
        else:
            del self._backlog[tenant]
            self._forget()
        return ticket

    def _line_up(self, tenant: str) -> None:
        number, _ = next(iter(self._backlog[tenant].values()))
        heapq.heappush(self._order, (self._counters[tenant], number, tenant))

    def _first(self) -> tuple[int, int, str]:
        """Give the true entry that comes first; there is one, as someone is backlogged."""
        while not self._is_true(self._order[0]):
            heapq.heappop(self._order)
        return self._order[0]

    def _is_true(self, entry: tuple[int, int, str]) -> bool:
        counter, number, tenant = entry
        queue = self._backlog.get(tenant)
        return queue is not None and counter == self._counters[tenant] and number == next(iter(queue.values()))[0]

    def _forget(self) -> None:
        """Drop counters that lifting would overrule anyway; rarely enough to cost O(1) per ticket on average."""
        if len(self._counters) > self._counters_max:
            kept = {t: c for t, c in self._counters.items() if c > self._floor or t in self._backlog}
            self._counters = kept
            self._counters_max = 2 * len(kept) + COUNTERS_KEPT_MIN

    def __len__(self) -> int:
        return sum(map(len, self._backlog.values()))


class DrainRate:
    """How fast a line drains: tickets granted per second over the last 10 s, from samples of the running total."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def observe(self, now_s: float, granted: int) -> None:
        """Note that *granted* tickets have been granted up to *now_s* (any clock that only goes forward)."""
        samples = self._samples
        if samples and granted < samples[-1][1]:
            samples.clear()  # the count began anew
        while samples and samples[0][0] < now_s - DRAIN_WINDOW_S:
            samples.popleft()
        if not samples or now_s - samples[-1][0] >= DRAIN_SAMPLE_S:
            samples.append((now_s, granted))

    def retry_after_s(self, now_s: float, granted: int, waiting: int) -> int:
        """Estimate when *waiting* tickets will have been granted, within what clients obey."""
        self.observe(now_s, granted)
        began_s, before = self._samples[0]
        if granted == before:
            return RETRY_AFTER_S_MAX
        seconds = ceil(waiting * max(now_s - began_s, DRAIN_SAMPLE_S) / (granted - before))
        return min(max(seconds, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX)


def line_full(pool: str, waiting_max: int, retry_after_s: int) -> Refused:
    """Make the refusal for a ticket that finds *waiting_max* others waiting."""
    message = (
        f"The line of the pool {pool!r} is full: {waiting_max} requests wait, and no more may. "
        f"Retry in {retry_after_s} s."
    )
    return Refused(Outcome.QUEUE_FULL, message, retry_after_s=retry_after_s)
