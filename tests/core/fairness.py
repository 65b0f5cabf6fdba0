"""
Random schedules played on a Line, and the bounds of core/scheduling.py's docstring checked over every interval.

A schedule is small, so that a million of them fit into minutes, and harsh: works that differ a hundredfold, weights,
predictions that are wrong by up to three times, settlements on the way and late, tickets that come and leave at any
time. It is one seed's: a schedule that breaks a bound can be played again.
"""

import random
from dataclasses import dataclass, field
from itertools import count

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import NO_DEADLINE_MS, RESERVED_PERCENT, UNITS_PER_TOKEN, Line, Ticket, charge

FIRST, STEPS, IN_FLIGHT_MAX = 6, 16, 4
LONG, LONG_EVERY = 20, 50  # one in so many schedules is so many times as long: reserves of 5 % show late
TENANTS = (("a", 1), ("b", 2), ("c", 3))
USERS = ("u", "v")
WORKS = (1, 7, 40, 100)
FACTORS = (0.1, 0.7, 1.0, 1.5, 3.0)  # actual work over predicted
RESERVES = sum(percent > 0 for percent in RESERVED_PERCENT.values())


@dataclass
class Gap:
    """What a value moved between since a moment on: the widest interval is from the lowest to the highest."""

    now: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0

    def add(self, amount: float) -> None:
        self.now += amount
        self.lowest, self.highest = min(self.lowest, self.now), max(self.highest, self.now)


@dataclass
class Rivals:
    """Those of one kind that wait (tenants of a class, or users of a tenant), and for each pair the gap in service."""

    waiting: dict[str, int] = field(default_factory=dict)
    gaps: dict[tuple[str, str], Gap] = field(default_factory=dict)

    def come(self, name: str) -> None:
        if name not in self.waiting:
            self.waiting[name] = 0
            self.gaps |= {_pair(name, other): Gap() for other in self.waiting if other != name}
        self.waiting[name] += 1

    def go(self, name: str) -> None:
        self.waiting[name] -= 1
        if not self.waiting[name]:
            del self.waiting[name]
            for other in self.waiting:
                del self.gaps[_pair(name, other)]

    def serve(self, name: str, amount: float) -> None:
        """Count service to one of them; if it does not wait, nobody is compared with it."""
        if name in self.waiting:
            for other in self.waiting:
                if other != name:
                    self.gaps[_pair(name, other)].add(amount if name < other else -amount)

    @property
    def widest(self) -> float:
        return max((gap.highest - gap.lowest for gap in self.gaps.values()), default=0.0)


@dataclass
class Margins:
    """How close a schedule came to the bounds: 1 is at the bound, above it is broken."""

    tenants: float = 0.0
    users: float = 0.0
    classes: float = 0.0

    def include(self, other: "Margins") -> None:
        self.tenants = max(self.tenants, other.tenants)
        self.users = max(self.users, other.users)
        self.classes = max(self.classes, other.classes)


class Schedule:
    """One random schedule; `play` gives its margins."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._dice = random.Random(seed)
        self._numbers = count()
        self._line = Line()
        self._waiting: dict[str, Ticket] = {}
        self._in_flight: list[tuple[Ticket, int]] = []  # what is left to settle
        self._tenants = {one: Rivals() for one in ServiceClass}
        self._users: dict[tuple[ServiceClass, str], Rivals] = {}
        self._shares: dict[ServiceClass, Gap] = {}  # of those that wait: service above the reserve, in tokens
        self._charge_max = self._error_max = self._work_max = 0.0
        self._margins = Margins()
        self._deadlines = self._dice.random() < 0.5

    def play(self) -> Margins:
        length = LONG if self._seed % LONG_EVERY == 0 else 1
        for _ in range(FIRST * length):
            self._enter()
        for _ in range(STEPS * length):
            [act] = self._dice.choices((self._enter, self._grant, self._leave, self._settle), (4, 6, 1, 3))
            act()
        return self._margins

    def _enter(self) -> None:
        tenant, weight = self._dice.choice(TENANTS)
        ticket = Ticket(
            id=str(next(self._numbers)),
            tenant=tenant,
            service_class=self._dice.choice(tuple(RESERVED_PERCENT)),
            user=self._dice.choice(USERS),
            work=self._dice.choice(WORKS),
            weight=weight,
            deadline_ms=self._dice.randrange(100) if self._deadlines else NO_DEADLINE_MS,
        )
        self._line.enter(ticket)
        self._waiting[ticket.id] = ticket
        self._tenants[ticket.service_class].come(tenant)
        self._users.setdefault((ticket.service_class, tenant), Rivals()).come(ticket.user)
        self._shares.setdefault(ticket.service_class, Gap())

    def _leave(self) -> None:
        if self._waiting:
            ticket = self._dice.choice(list(self._waiting.values()))
            assert self._line.leave(ticket.id)
            self._forget(ticket)

    def _grant(self) -> None:
        while len(self._in_flight) >= IN_FLIGHT_MAX:
            self._end(0)
        ticket = self._line.next()
        if ticket is None:
            return
        actual = max(1, round(ticket.work * self._dice.choice(FACTORS)))
        self._in_flight.append((ticket, actual - ticket.work))
        self._note_granted(ticket)
        self._serve(ticket, ticket.charge)
        self._share(ticket)
        self._forget(ticket)

    def _settle(self) -> None:
        """Correct upwards on the way, or end a ticket."""
        if not self._in_flight:
            return
        place = self._dice.randrange(len(self._in_flight))
        ticket, left = self._in_flight[place]
        if left > 1 and self._dice.random() < 0.5:
            self._in_flight[place] = ticket, left - left // 2
            self._correct(ticket, left // 2)
        else:
            self._end(place)

    def _end(self, place: int) -> None:
        ticket, left = self._in_flight.pop(place)
        self._correct(ticket, left)

    def _correct(self, ticket: Ticket, work: int) -> None:
        self._line.settle(ticket, work)
        self._serve(ticket, charge(work, ticket.weight))

    def _note_granted(self, ticket: Ticket) -> None:
        """Keep c, E and w: the largest so far. A correction in parts may be a unit off for each of them."""
        self._charge_max = max(self._charge_max, ticket.charge)
        self._work_max = max(self._work_max, ticket.work)
        errors = sum(abs(left) * UNITS_PER_TOKEN / one.weight + 3 for one, left in self._in_flight)
        self._error_max = max(self._error_max, errors)

    def _serve(self, ticket: Ticket, amount: int) -> None:
        bound = 2 * (self._charge_max + self._error_max)
        tenants = self._tenants[ticket.service_class]
        users = self._users[ticket.service_class, ticket.tenant]
        tenants.serve(ticket.tenant, amount)
        users.serve(ticket.user, amount)
        self._margins.tenants = max(self._margins.tenants, tenants.widest / bound)
        self._margins.users = max(self._margins.users, users.widest / bound)

    def _share(self, ticket: Ticket) -> None:
        """Count the grant for every class that waits: a fall below an earlier value is what it got too little."""
        for service_class, gap in self._shares.items():
            got = ticket.work if service_class is ticket.service_class else 0
            gap.now += got - RESERVED_PERCENT[service_class] / 100 * ticket.work
            gap.highest = max(gap.highest, gap.now)
            if RESERVED_PERCENT[service_class]:
                short = (gap.highest - gap.now) / (RESERVES * self._work_max)
                self._margins.classes = max(self._margins.classes, short)

    def _forget(self, ticket: Ticket) -> None:
        del self._waiting[ticket.id]
        self._users[ticket.service_class, ticket.tenant].go(ticket.user)
        self._tenants[ticket.service_class].go(ticket.tenant)
        if not self._tenants[ticket.service_class].waiting:
            del self._shares[ticket.service_class]


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def play(seeds: range) -> Margins:
    """Play the schedules of *seeds*; gives how close any of them came to the bounds."""
    margins = Margins()
    for seed in seeds:
        margins.include(Schedule(seed).play())
    return margins
