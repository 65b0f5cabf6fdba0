"""
How long a wait will be: the rate at which slots come free, capacity that is about to start, and places in line.

ETA = tickets ahead in the order of service ÷ the rate of grants. The rate is measured as completions per busy slot and
second over the last 10 s (Little's law on the requests in service: the reciprocal of their mean time), times the slots
there are; so more slots shorten every wait at once, not only after a window, and those of workers that are starting
count from the moment they are expected. What is granted to those who come later and pass (more urgent ones, tenants
that had nothing in line) is taken off the rate, for half as long again as the line has lasted: nobody knows when they
will cease to come. By our simulations a rate of arrivals or the last wait seen err by 45–110 %, position ÷ the rate of
grants by 4–7 %; while a third of the rate goes to those who pass in a burst of unknown length, by some 20 %.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import RESERVED_PERCENT, Ticket

WINDOW_S = 10.0
# A slow pool completes too few requests in 10 s to tell a rate: the window then grows until it holds so many, which
# leaves an error of 10 %, or is so long.
COMPLETED_MIN, WINDOW_S_MAX = 100, 60.0
SAMPLE_S = 0.1  # samples closer together than this are merged
PASSING_WINDOW_S = 2.0
PASSING_LASTS = 0.5  # of the time that the line has lasted: between a burst that ends and traffic that does not
# What is left of the rate however many pass: the least reserve of a class.
RATE_SHARE_MIN = min(percent for percent in RESERVED_PERCENT.values() if percent) / 100
LOOK_S = 1.0  # how often a line is looked at, as long as that costs little
# A ticket in line is given up when it is expected this much later than it may be granted; forecasts err by some 10 %.
LATE_FACTOR = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCounts:
    """
    A pool over all gateways: requests *in_flight* and *waiting*, the *slots* there are, and two counts so far.

    *granted* are tickets that were granted out of the line, *completed* all requests that gave their slot back.
    """

    in_flight: int = 0
    waiting: int = 0
    slots: int = 0
    granted: int = 0
    completed: int = 0


@dataclass(frozen=True, slots=True)
class Coming:
    """*slots* more that are expected at *at_s*, on the clock of whoever asks."""

    at_s: float
    slots: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ticket stands: *position* 1 is next; *eta_s* in seconds from now, None while the rate is unknown."""

    position: int
    eta_s: float | None
    waiting: int


@dataclass(frozen=True, slots=True)
class _Sample:
    """Counts so far; *busy_s* is the time in which any slot was busy."""

    busy_s: float
    busy_slot_s: float
    completed: int


class ServiceRate:
    """
    Completions per busy slot and second over the last 10 s in which slots were busy; idle time is left out.

    Where that is too little to tell a rate, it looks further back.
    """

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._now_s = 0.0
        self._in_flight = 0

    def observe(self, now_s: float, completed: int, in_flight: int) -> None:
        """Note how many requests have been completed so far and how many are in flight; any clock that goes forward."""
        samples = self._samples
        if samples and (completed < samples[-1].completed or now_s < self._now_s):
            samples.clear()  # the count began anew
        busy_s = busy_slot_s = 0.0
        if samples:
            past_s, busy = now_s - self._now_s, (self._in_flight + in_flight) / 2
            busy_s = samples[-1].busy_s + (past_s if busy else 0)
            busy_slot_s = samples[-1].busy_slot_s + past_s * busy
            if len(samples) > 1 and busy_s - samples[-2].busy_s < SAMPLE_S:
                samples.pop()
        self._now_s, self._in_flight = now_s, in_flight
        samples.append(_Sample(busy_s, busy_slot_s, completed))
        while len(samples) > 2 and self._is_enough_from(samples[1]):
            samples.popleft()

    def _is_enough_from(self, first: _Sample) -> bool:
        """Tell whether the samples from *first* on make a window."""
        last = self._samples[-1]
        length_s = last.busy_s - first.busy_s
        has_seen_enough = last.completed - first.completed >= COMPLETED_MIN
        return length_s >= (WINDOW_S if has_seen_enough else WINDOW_S_MAX)

    @property
    def per_slot(self) -> float | None:
        """Completions per second of one busy slot; None if none was seen."""
        if not self._samples:
            return None
        first, last = self._samples[0], self._samples[-1]
        completed, busy_slot_s = last.completed - first.completed, last.busy_slot_s - first.busy_slot_s
        return completed / busy_slot_s if completed > 0 and busy_slot_s > 0 else None


class Forecast:
    """
    Places and waits of one pool's line, as last looked at; cheap to ask.

    `observe` and `expect` keep the rate and the capacity, `look` takes the order of the line.
    """

    def __init__(self) -> None:
        self._rate = ServiceRate()
        self._per_slot: float | None = None
        self._pool = PoolCounts()
        self._coming: Sequence[Coming] = ()
        self._ranks: dict[str, tuple[int, ServiceClass]] = {}
        self._passing = {service_class: _Passing() for service_class in ServiceClass}
        self._of_tenant: dict[tuple[ServiceClass, str], _TenantRanks] = {}
        self._before_newcomer = dict.fromkeys(ServiceClass, 0)
        self._granted_then = 0
        self._now_s = self._looked_s = self._line_began_s = 0.0

    def observe(self, now_s: float, pool: PoolCounts) -> None:
        """Take how the pool stands."""
        self._rate.observe(now_s, pool.completed, pool.in_flight)
        self._per_slot = self._rate.per_slot or self._per_slot
        self._pool, self._now_s = pool, now_s

    def expect(self, coming: Iterable[Coming]) -> None:
        """Take what more capacity is expected, and when."""
        self._coming = tuple(coming)

    def look(self, order: Sequence[Ticket], granted: int) -> None:
        """Take the line's order of service as it was when *granted* tickets had been granted."""
        self._note_passing(order, granted - self._granted_then)
        self._ranks = {ticket.id: (rank, ticket.service_class) for rank, ticket in enumerate(order)}
        self._granted_then = granted
        self._of_tenant = {}
        for rank, ticket in enumerate(order):
            ranks = self._of_tenant.setdefault((ticket.service_class, ticket.tenant), _TenantRanks([], set()))
            ranks.ranks.append(rank)
            ranks.users.add(ticket.user)
        tickets, tenants = Counter(ticket.service_class for ticket in order), Counter(c for c, _ in self._of_tenant)
        self._before_newcomer = {c: sum(tickets[d] for d in ServiceClass if d < c) + tenants[c] for c in ServiceClass}

    def place(self, ticket_id: str, now_s: float) -> Place | None:
        """Tell where a ticket stands; None if it was not in line when that was last looked at."""
        known = self._ranks.get(ticket_id)
        if known is None:
            return None
        rank, service_class = known
        ahead = max(0, rank - self._granted_since)
        return Place(
            ahead + 1, self.wait_s(ahead, now_s, self._passing[service_class].per_s), max(self._pool.waiting, ahead + 1)
        )

    def newcomer(self, ticket: Ticket, now_s: float) -> Place:
        """Estimate where *ticket* would stand if it came now."""
        ahead = min(max(0, self._rank_of_newcomer(ticket) - self._granted_since), self._pool.waiting)
        wait_s = self.wait_s(ahead, now_s, self._passing[ticket.service_class].per_s)
        return Place(ahead + 1, wait_s, self._pool.waiting + 1)

    def newcomer_late_s(self, ticket: Ticket, now_s: float) -> float | None:
        """Give the wait expected of *ticket*, if it came now, where that is longer than it may wait; else None."""
        eta_s, left_s = self.newcomer(ticket, now_s).eta_s, ticket.deadline_ms / 1000 - now_s
        return eta_s if eta_s is not None and eta_s > left_s else None

    def late_s(self, ticket: Ticket, now_s: float) -> float | None:
        """Give the wait expected of *ticket*, which is in line, where it cannot make it any more; else None."""
        place, left_s = self.place(ticket.id, now_s), ticket.deadline_ms / 1000 - now_s
        is_late = place and place.eta_s is not None and place.eta_s > LATE_FACTOR * left_s
        return place.eta_s if place and is_late else None

    def wait_s(self, ahead: int, now_s: float, passing_per_s: float = 0.0) -> float | None:
        """
        Estimate the wait of a ticket with *ahead* others before it; None if the rate or the capacity is unknown.

        *passing_per_s* are granted past it by those who come later, for half as long again as the line has lasted.
        """
        slots, at_s, pass_until_s = self._pool.slots, now_s, now_s + (now_s - self._line_began_s) * PASSING_LASTS
        completions: float = ahead + 1 - (slots - self._pool.in_flight)  # that must come before its grant
        for change in (*sorted((*self._coming, Coming(pass_until_s, 0)), key=_at_s), Coming(inf, 0)):
            rate = self._net_rate(slots, passing_per_s if at_s < pass_until_s else 0.0)
            granted_s = at_s + _time_for(completions, rate)
            if granted_s <= change.at_s:
                return None if granted_s == inf else granted_s - now_s
            next_s = max(at_s, change.at_s)
            completions -= rate * (next_s - at_s) + change.slots
            slots, at_s = slots + change.slots, next_s
        raise AssertionError("whatever is granted is granted before the end of time")

    def drain_s(self, now_s: float) -> float | None:
        """Estimate when everyone who waits now will have been granted."""
        return self.wait_s(max(0, self._pool.waiting - 1), now_s)

    @property
    def _granted_since(self) -> int:
        return max(0, self._pool.granted - self._granted_then)

    def _net_rate(self, slots: int, passing_per_s: float) -> float:
        rate = slots * (self._per_slot or 0.0)
        return max(rate - passing_per_s, RATE_SHARE_MIN * rate)

    def _note_passing(self, order: Sequence[Ticket], granted: int) -> None:
        """Find out how many were granted past those of each class, since the last look, that were not in line then."""
        past_s, self._looked_s = self._now_s - self._looked_s, self._now_s
        if not self._ranks or not order or past_s <= 0:
            self._line_began_s = self._now_s
            self._passing = {service_class: _Passing() for service_class in ServiceClass}
            return
        present = {ticket.id for ticket in order}
        gone = Counter(service_class for name, (_, service_class) in self._ranks.items() if name not in present)
        for service_class, passing in self._passing.items():
            own = sum(gone[c] for c in ServiceClass if c >= service_class)
            passing.note(max(0, granted - own) / past_s, past_s)

    def _rank_of_newcomer(self, ticket: Ticket) -> int:
        """
        Behind its tenant's last ticket if its user has some waiting; else behind one of each of the tenant's users.

        A tenant with nothing waiting comes behind one ticket of each tenant of its class, and all more urgent ones.
        """
        own = self._of_tenant.get((ticket.service_class, ticket.tenant))
        if own is None:
            return self._before_newcomer[ticket.service_class]
        if ticket.user in own.users:
            return own.ranks[-1] + 1
        return own.ranks[min(len(own.users), len(own.ranks)) - 1] + 1


def _at_s(coming: Coming) -> float:
    return coming.at_s


def _time_for(completions: float, rate: float) -> float:
    if completions <= 0:
        return 0.0
    return completions / rate if rate else inf


@dataclass(slots=True)
class _Passing:
    """How many a second are granted past the tickets of a class by those who came later."""

    per_s: float = 0.0
    seen_s: float = 0.0

    def note(self, per_s: float, past_s: float) -> None:
        """Take what it was over the last *past_s*; the last 2 s count most."""
        self.seen_s += past_s
        self.per_s += min(1.0, past_s / min(self.seen_s, PASSING_WINDOW_S)) * (per_s - self.per_s)


@dataclass(frozen=True, slots=True)
class _TenantRanks:
    ranks: list[int]
    users: set[str]
