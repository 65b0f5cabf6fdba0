"""The policy of the line, too simple to be wrong: it looks at everything each time."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import count

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import Ticket

RESERVES = {ServiceClass.INTERACTIVE: 0, ServiceClass.STANDARD: 10, ServiceClass.BATCH: 5}


@dataclass
class Round:
    """Names that take turns: counters of all that are remembered, and the numbers of those that wait."""

    counters: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    floor: int = 0

    def join(self, name: str, number: int) -> None:
        if name not in self.waiting:
            smallest = min((self.counters[other] for other in self.waiting), default=self.floor)
            self.counters[name] = max(self.counters.get(name, 0), smallest)
            self.waiting[name] = number

    def first(self) -> str:
        return min(self.waiting, key=lambda name: (self.counters[name], self.waiting[name]))

    def charge(self, name: str, amount: int) -> None:
        self.floor = self.counters[name]
        self.counters = {n: c for n, c in self.counters.items() if c > self.floor or n in self.waiting}
        self.counters[name] += amount

    def settle(self, name: str, amount: int) -> None:
        if name in self.counters:
            self.counters[name] = max(0, self.counters[name] + amount)


@dataclass
class Flight:
    """A ticket in flight, what was charged for it so far, and what it spends; None: it is not settled."""

    ticket: Ticket
    charged: int = 0
    spent: int | None = None


@dataclass
class Model:
    """A pool: tickets by their numbers, and who is in flight."""

    waiting_max: int
    waiting_of_tenant_max: int
    slots: int = 0
    waiting: dict[int, Flight] = field(default_factory=dict)
    in_flight: dict[str, Flight] = field(default_factory=dict)
    tenants: dict[ServiceClass, Round] = field(default_factory=lambda: {c: Round() for c in ServiceClass})
    users: dict[tuple[ServiceClass, str], Round] = field(default_factory=dict)
    owed: dict[ServiceClass, int] = field(default_factory=lambda: dict.fromkeys(ServiceClass, 0))
    numbers: count = field(default_factory=count)

    @property
    def has_free_slot(self) -> bool:
        """Whether a ticket that comes now need not wait."""
        return len(self.in_flight) < self.slots and not self.waiting

    def refusal(self, one: Ticket) -> str | None:
        """Give the code by which a ticket is refused that would have to wait."""
        if len(self.waiting) >= self.waiting_max:
            return "queue_full"
        of_tenant = sum(flight.ticket.tenant == one.tenant for flight in self.waiting.values())
        return "tenant_queue_full" if of_tenant >= self.waiting_of_tenant_max else None

    def start(self, one: Ticket) -> None:
        """Let a ticket pass the line."""
        self.in_flight[one.id] = Flight(one)

    def enter(self, one: Ticket, spent: int | None) -> None:
        """Put a ticket in line."""
        number, key = next(self.numbers), (one.service_class, one.tenant)
        self.tenants[one.service_class].join(one.tenant, number)
        self.users.setdefault(key, Round()).join(one.user, number)
        self.waiting[number] = Flight(one, one.work, spent)
        self.admit()

    def leave(self, ticket_id: str) -> None:
        """Take a ticket out, wherever it is."""
        if flight := self.in_flight.pop(ticket_id, None):
            if flight.spent is not None:
                self.settle(flight, flight.spent - flight.charged)
        else:
            [number] = [n for n, flight in self.waiting.items() if flight.ticket.id == ticket_id]
            self.gone(self.waiting.pop(number).ticket)
        self.admit()

    def look(self, ticket_ids: set[str]) -> None:
        """Settle those among *ticket_ids* in flight that have spent more than was charged."""
        for ticket_id in ticket_ids & self.in_flight.keys():
            flight = self.in_flight[ticket_id]
            if flight.spent is not None and flight.spent > flight.charged:
                self.settle(flight, flight.spent - flight.charged)

    def settle(self, flight: Flight, work: int) -> None:
        flight.charged += work
        one, amount = flight.ticket, work * 100 // flight.ticket.weight
        self.tenants[one.service_class].settle(one.tenant, amount)
        if users := self.users.get((one.service_class, one.tenant)):
            users.settle(one.user, amount)

    def admit(self) -> None:
        while self.waiting and len(self.in_flight) < self.slots:
            flight = self.take_next()
            self.in_flight[flight.ticket.id] = flight

    def order(self) -> list[str]:
        """Give the tickets in line as they would be granted."""
        other = deepcopy(replace(self, in_flight={}))
        return [other.take_next().ticket.id for _ in self.waiting]

    def take_next(self) -> Flight:
        waiting = [c for c in ServiceClass if any(f.ticket.service_class is c for f in self.waiting.values())]
        c = next((c for c in waiting if self.owed[c] > 0), waiting[0])
        tenant = self.tenants[c].first()
        user = self.users[c, tenant].first()
        rivals = {
            number: flight.ticket
            for number, flight in self.waiting.items()
            if (flight.ticket.service_class, flight.ticket.tenant, flight.ticket.user) == (c, tenant, user)
        }
        number = min(rivals, key=lambda n: (rivals[n].deadline_ms - rivals[n].head_start_ms, n))
        flight = self.waiting.pop(number)
        amount = flight.ticket.work * 100 // flight.ticket.weight
        self.users[c, tenant].charge(user, amount)
        self.tenants[c].charge(tenant, amount)
        self.gone(flight.ticket)
        self.note_share(c, flight.ticket.work)
        return flight

    def gone(self, one: Ticket) -> None:
        """Note that a ticket is out of line."""
        left = [flight.ticket for flight in self.waiting.values() if flight.ticket.service_class is one.service_class]
        of_tenant = [other for other in left if other.tenant == one.tenant]
        if not any(other.user == one.user for other in of_tenant):
            del self.users[one.service_class, one.tenant].waiting[one.user]
        if not of_tenant:
            del self.users[one.service_class, one.tenant]
            del self.tenants[one.service_class].waiting[one.tenant]
        if not left:
            self.owed[one.service_class] = 0

    def note_share(self, served: ServiceClass, work: int) -> None:
        waiting = {flight.ticket.service_class for flight in self.waiting.values()}
        for c in ServiceClass:
            if c not in waiting or (c is served and c == min(waiting)):
                self.owed[c] = 0
            else:
                self.owed[c] += RESERVES[c] * work - 100 * work * (c is served)
