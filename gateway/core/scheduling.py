"""
Who is next: the order of tickets in front of a pool.

The policy, from the outside in:

1. **Classes** by urgency, each with a reserved share: standard 10 %, batch 5 % of the work granted while it waits. A
   class that is behind its share goes first; else the most urgent one that has a ticket.
2. **Tenants** of a class take turns by virtual token counters (`core/turns.py`), charged predicted work ÷ weight at the
   grant, corrected to the actual work as tokens flow and at the end (`settle`).
3. **End users** of a tenant the same, charged the same.
4. **Tickets** of a user: the earliest deadline first, then first come, first served.

A ticket that finds a free slot and nobody waiting is granted past the line and charged nothing: nobody waited for it.

**Bounds.** Let c be the largest charge (work ÷ weight) of one ticket, and E the sum of |actual − predicted| ÷ weight
over the tickets in flight. At each grant the tenant served has the smallest counter of those that wait, and a counter
moves only by its tenant's own service: up by at most c at a grant, by corrections of at most E in sum. So the counters
of two tenants that both wait never differ by more than c + E, and over any interval in which both wait, their service
in tokens ÷ weight differs by at most 2 (c + E). The same holds for two users of a tenant. A class with the reserve r
that waits throughout an interval in which the work W is granted gets at least r W − k w of it, with w the largest work
of one ticket and k the number of classes with a reserve: it goes first as soon as it is behind, unless another one is.

`stores/lua/line.lua` is the same policy over Redis; the conformance suite holds both to the same order.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import count
from typing import Self

from gateway.core.directory import ServiceClass
from gateway.core.turns import Turns

UNITS_PER_TOKEN = 100  # of a charge, so that it is a whole number whatever the weight
WAITING_MAX = 20_000  # tickets in line; some 33 KiB of a gateway's memory each
TENANT_SHARE = 0.5
NO_DEADLINE_MS = 2**53 - 1  # the largest whole number that Lua can count with
_BY_URGENCY = tuple(ServiceClass)  # iterating over an Enum itself takes several times as long
RESERVED_PERCENT = {ServiceClass.INTERACTIVE: 0, ServiceClass.STANDARD: 10, ServiceClass.BATCH: 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """
    A place in line. *id* is the request's; *work* its predicted cost in tokens; *weight* its tenant's, 1 … 100.

    *arrived_ms* is when it came, *deadline_ms* when it must be granted, in Unix ms: later than that it is refused. One
    whose request came before, and went away without a slot, has a *head_start_ms*: how long ago that was. In the order
    it is taken to have come then, with the deadline it would have had; it is not refused by that one.
    """

    id: str
    tenant: str
    service_class: ServiceClass
    user: str = ""
    work: int = 1
    weight: int = 1
    deadline_ms: int = NO_DEADLINE_MS
    arrived_ms: int = 0
    head_start_ms: int = 0

    @property
    def order_ms(self) -> int:
        """The deadline by which it is ordered among its user's."""
        return self.deadline_ms - self.head_start_ms

    @property
    def charge(self) -> int:
        """What its grant costs its tenant and user, in virtual units."""
        return charge(self.work, self.weight)


def charge(work: int, weight: int) -> int:
    """Give the charge of *work* tokens for a tenant of *weight*; of negative work a refund."""
    return work * UNITS_PER_TOKEN // weight


@dataclass(slots=True)
class Held:
    """A ticket with a slot, the work charged for it so far, and what tells the work it did; None: no correction."""

    ticket: Ticket
    charged: int = 0
    spent: Callable[[], int] | None = None

    def correction(self, *, is_over: bool) -> int:
        """Give the work to charge more from now on: upwards as tokens flow, to the actual work at the end."""
        work = self.spent() - self.charged if self.spent else 0
        if work < 0 and not is_over:
            return 0
        self.charged += work
        return work


class Bound(Enum):
    """What keeps a ticket from being put in line."""

    LINE = auto()
    SHARE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class LineBounds:
    """How many tickets may wait, and the part of those places that one tenant may fill: one place at least."""

    waiting_max: int = WAITING_MAX
    tenant_share: float = TENANT_SHARE

    @property
    def of_tenant_max(self) -> int:
        """How many tickets of one tenant may wait."""
        return max(1, int(self.waiting_max * self.tenant_share))

    def reached(self, line: "Line", tenant: str) -> Bound | None:
        """Tell which bound keeps one more ticket of *tenant* out of *line*; None if it may wait."""
        if len(line) >= self.waiting_max:
            return Bound.LINE
        return Bound.SHARE if line.waiting_of(tenant) >= self.of_tenant_max else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """
    The counter of a tenant of a class, or of a *user* of it, that has tickets waiting.

    *joined* is the number of the ticket that began its backlog: among equal counters the smaller goes first.
    """

    service_class: ServiceClass
    tenant: str
    user: str | None = None
    counter: int
    joined: int


@dataclass(slots=True, repr=False)
class Line:
    """The tickets that wait, in the order of the policy above. Entering, leaving and `next` are O(log n) amortised."""

    _numbers: Iterator[int] = field(default_factory=count)
    _places: dict[str, "_Place"] = field(default_factory=dict)
    _classes: tuple["_ClassLine", ...] = field(default_factory=lambda: tuple(_ClassLine() for _ in ServiceClass))
    # hundredths of a token that a waiting class is behind its reserve
    _owed: dict[ServiceClass, int] = field(default_factory=lambda: dict.fromkeys(ServiceClass, 0))

    def enter(self, ticket: Ticket) -> None:
        """Put *ticket* in line."""
        assert ticket.id not in self._places, f"the ticket {ticket.id} is in line already"
        self._enter(_Place(next(self._numbers), ticket))

    def leave(self, ticket_id: str) -> bool:
        """Take a ticket out, uncharged; tell whether it was in line."""
        place = self._places.pop(ticket_id, None)
        if place is None:
            return False
        service_class = place.ticket.service_class
        self._classes[service_class].leave(place, self._holds)
        if not len(self._classes[service_class]):
            self._owed[service_class] = 0
        return True

    def next(self) -> Ticket | None:
        """Take out the ticket whose turn it is and charge for it; None if nobody waits."""
        service_class = self._class_in_turn()
        if service_class is None:
            return None
        ticket = self._classes[service_class].next(self._holds)
        del self._places[ticket.id]
        self._note_share(service_class, ticket.work)
        return ticket

    def settle(self, ticket: Ticket, work: int) -> None:
        """Charge *work* tokens more than so far for a ticket that was granted; less if negative."""
        self._classes[ticket.service_class].settle(ticket, charge(work, ticket.weight))

    def order(self) -> Iterator[Ticket]:
        """List the tickets as they would be granted if none came or left; this line stays as it is."""
        other = self.copy()
        return iter(other.next, None)

    def copy(self) -> Self:
        """Make another line that can be played forward."""
        classes = tuple(line.copy() for line in self._classes)
        return replace(self, _places=self._places.copy(), _classes=classes, _owed=self._owed.copy())

    def waiting_of(self, tenant: str) -> int:
        """Count the tickets of *tenant* that wait, in all classes."""
        return sum(line.waiting_of(tenant) for line in self._classes)

    @classmethod
    def restore(
        cls, tickets: Iterable[Ticket], standings: Iterable["Standing"], owed: Mapping[ServiceClass, int]
    ) -> Self:
        """Make a line as another one stands: tickets by arrival, the counters of all that wait, the reserves owed."""
        line = cls()
        for ticket in tickets:
            line.enter(ticket)
        for standing in standings:
            line.stand(standing)
        line.owe(owed)
        return line

    def stand(self, standing: "Standing") -> None:
        """Give a tenant or a user the counter it is known to have; one that has nothing waiting is passed over."""
        self._classes[standing.service_class].place(standing)

    def owe(self, owed: Mapping[ServiceClass, int]) -> None:
        """Take how far behind their reserves the classes are known to be."""
        self._owed.update(owed)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        waiting = ", ".join(f"{len(line)} {c.label}" for c, line in zip(ServiceClass, self._classes, strict=True))
        return f"<Line [{waiting}]>"

    def _enter(self, place: "_Place") -> None:
        self._places[place.ticket.id] = place
        self._classes[place.ticket.service_class].enter(place)

    def _holds(self, place: "_Place") -> bool:
        return self._places.get(place.ticket.id) is place

    def _class_in_turn(self) -> ServiceClass | None:
        waiting = [c for c in _BY_URGENCY if self._classes[c].waiting]
        behind = [c for c in waiting if self._owed[c] > 0]
        return next(iter(behind or waiting), None)

    def _note_share(self, served: ServiceClass, work: int) -> None:
        """Keep the books on reserves: *served*, which waited, was granted *work*; those that still wait fall behind."""
        is_most_urgent = True  # among those that wait, down to the class at hand
        for c in _BY_URGENCY:
            is_waiting = self._classes[c].waiting > 0
            if not is_waiting or (c is served and is_most_urgent):
                self._owed[c] = 0
            else:
                self._owed[c] += RESERVED_PERCENT[c] * work - (100 * work if c is served else 0)
            is_most_urgent = is_most_urgent and not is_waiting


@dataclass(frozen=True, slots=True)
class _Place:
    """A ticket in line and its number of arrival."""

    number: int
    ticket: Ticket


@dataclass(slots=True)
class _ClassLine:
    """The tickets of one class: tenants take turns."""

    _turns: Turns = field(default_factory=Turns)
    _tenants: dict[str, "_TenantLine"] = field(default_factory=dict)
    waiting: int = 0

    def enter(self, place: _Place) -> None:
        tenant = place.ticket.tenant
        if tenant not in self._turns:
            self._turns.join(tenant, place.number)
            self._tenants[tenant] = _TenantLine()
        self._tenants[tenant].enter(place)
        self.waiting += 1

    def leave(self, place: _Place, is_waiting: Callable[[_Place], bool]) -> None:
        tenant = place.ticket.tenant
        self._tenants[tenant].leave(place, is_waiting)
        self._note_gone(tenant)

    def next(self, is_waiting: Callable[[_Place], bool]) -> Ticket:
        tenant = self._turns.first()
        ticket = self._tenants[tenant].next(is_waiting)
        self._turns.charge(tenant, ticket.charge)
        self._note_gone(tenant)
        return ticket

    def settle(self, ticket: Ticket, amount: int) -> None:
        self._turns.settle(ticket.tenant, amount)
        if line := self._tenants.get(ticket.tenant):
            line.settle(ticket.user, amount)

    def place(self, standing: Standing) -> None:
        if standing.tenant not in self._tenants:
            return
        if standing.user is None:
            self._turns.place(standing.tenant, standing.joined, standing.counter)
        else:
            self._tenants[standing.tenant].place(standing.user, standing)

    def copy(self) -> Self:
        tenants = {tenant: line.copy() for tenant, line in self._tenants.items()}
        return replace(self, _turns=self._turns.copy(), _tenants=tenants)

    def waiting_of(self, tenant: str) -> int:
        return len(self._tenants[tenant]) if tenant in self._tenants else 0

    def _note_gone(self, tenant: str) -> None:
        self.waiting -= 1
        if not len(self._tenants[tenant]):
            del self._tenants[tenant]
            self._turns.leave(tenant)

    def __len__(self) -> int:
        return self.waiting


@dataclass(slots=True)
class _TenantLine:
    """What one tenant has waiting in a class: its end users take turns. Their counters live as long as its backlog."""

    _turns: Turns = field(default_factory=Turns)
    _users: dict[str, "_UserLine"] = field(default_factory=dict)
    _waiting: int = 0

    def enter(self, place: _Place) -> None:
        user = place.ticket.user
        if user not in self._turns:
            self._turns.join(user, place.number)
            self._users[user] = _UserLine()
        self._users[user].enter(place)
        self._waiting += 1

    def leave(self, place: _Place, is_waiting: Callable[[_Place], bool]) -> None:
        user = place.ticket.user
        self._users[user].leave(is_waiting)
        self._note_gone(user)

    def next(self, is_waiting: Callable[[_Place], bool]) -> Ticket:
        user = self._turns.first()
        ticket = self._users[user].next(is_waiting)
        self._turns.charge(user, ticket.charge)
        self._note_gone(user)
        return ticket

    def settle(self, user: str, amount: int) -> None:
        self._turns.settle(user, amount)

    def place(self, user: str, standing: Standing) -> None:
        if user in self._users:
            self._turns.place(user, standing.joined, standing.counter)

    def copy(self) -> Self:
        users = {user: line.copy() for user, line in self._users.items()}
        return replace(self, _turns=self._turns.copy(), _users=users)

    def _note_gone(self, user: str) -> None:
        self._waiting -= 1
        if not len(self._users[user]):
            del self._users[user]
            self._turns.leave(user)

    def __len__(self) -> int:
        return self._waiting


@dataclass(slots=True)
class _UserLine:
    """The tickets of one end user, earliest deadline first. One that left is dropped when it is met."""

    _heap: list[tuple[int, int, _Place]] = field(default_factory=list)
    _waiting: int = 0

    def enter(self, place: _Place) -> None:
        heapq.heappush(self._heap, (place.ticket.order_ms, place.number, place))
        self._waiting += 1

    def leave(self, is_waiting: Callable[[_Place], bool]) -> None:
        """Count one out that is gone; clear all that are gone when they outnumber those that wait."""
        self._waiting -= 1
        if len(self._heap) > 2 * self._waiting:
            self._heap = [entry for entry in self._heap if is_waiting(entry[2])]
            heapq.heapify(self._heap)

    def next(self, is_waiting: Callable[[_Place], bool]) -> Ticket:
        while not is_waiting(self._heap[0][2]):
            heapq.heappop(self._heap)
        self._waiting -= 1
        return heapq.heappop(self._heap)[2].ticket

    def copy(self) -> Self:
        return replace(self, _heap=self._heap.copy())

    def __len__(self) -> int:
        return self._waiting
