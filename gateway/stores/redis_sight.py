"""What a gateway sees of a line in Redis: the entries and standings as `lua/pool.lua` lays them out, made a Line."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import Line, Standing, Ticket

NUL, AFTER_NUL = "\0", "\1"
DIGITS = 16
USER_LENGTH_MAX = 64


def storable(ticket: Ticket) -> Ticket:
    """Give the ticket under a name of its user that keys can be made of: callers may name users as they like."""
    user = ticket.user
    if len(user) <= USER_LENGTH_MAX and user.isprintable():
        return ticket
    return replace(ticket, user=hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest())


def entry_of(ticket: Ticket) -> str:
    """Give the entry of a ticket that has no number yet."""
    order = f"{max(0, ticket.order_ms):0{DIGITS}}{NUL}{0:0{DIGITS}}"
    whose = f"{ticket.service_class:d}{NUL}{ticket.tenant}{NUL}{ticket.user}"
    return f"{whose}{NUL}{order}{NUL}{ticket.id}{NUL}{ticket.work}{NUL}{ticket.weight}{NUL}{ticket.charge}"


def ticket_of(entry: str) -> Ticket:
    """Read a ticket from its entry."""
    service_class, tenant, user, deadline, _, ticket_id, work, weight, _ = entry.split(NUL)
    return Ticket(
        id=ticket_id,
        tenant=tenant,
        service_class=ServiceClass(int(service_class)),
        user=user,
        work=int(work),
        weight=int(weight),
        deadline_ms=int(deadline),
    )


def standing_of(round_entry: str) -> Standing:
    """Read a standing: of a tenant from "t<class> NUL …", of a user from "u<class> NUL <tenant> NUL …"."""
    round_name, rest = round_entry.split(NUL, 1)
    tenant, user = "", None
    if round_name[0] == "u":
        tenant, rest = rest.split(NUL, 1)
    counter, joined, name = rest[:DIGITS], rest[DIGITS : 2 * DIGITS], rest[2 * DIGITS :]
    tenant, user = (tenant, name) if round_name[0] == "u" else (name, None)
    service_class = ServiceClass(int(round_name[1:]))
    return Standing(service_class=service_class, tenant=tenant, user=user, counter=int(counter), joined=int(joined))


@dataclass(slots=True)
class Sight:
    """A line as Redis had it when *granted* tickets had been granted."""

    granted: int = 0
    owed: dict[ServiceClass, int] = field(default_factory=dict)
    entries: list[str] = field(default_factory=list)
    rounds: list[str] = field(default_factory=list)

    def add(self, granted: int, owed: Sequence[str], entries: Sequence[str], rounds: Sequence[str]) -> None:
        """Take a page; the first one says how the rest of the pool stood."""
        if not self.entries:
            self.granted = granted
            self.owed = {ServiceClass(int(c)): int(v) for c, v in zip(owed[::2], owed[1::2], strict=True)}
        self.entries += filter(None, entries)
        self.rounds += filter(None, rounds)

    def restore(self, line: Line, known: dict[str, Ticket]) -> Iterator[None]:
        """
        Make *line*, which is empty, stand as this one did, a step at a time, so that other tasks get their turn.

        *known* are tickets by their entries, to be read but once; it is left with those of this line.
        """
        tickets = {}
        for entry in sorted(self.entries, key=_number_of):
            ticket = tickets[entry] = known.get(entry) or ticket_of(entry)
            line.enter(ticket)
            yield
        known.clear()
        known.update(tickets)
        for entry in self.rounds:
            line.stand(standing_of(entry))
            yield
        line.owe(self.owed)


def _number_of(entry: str) -> str:
    return entry.split(NUL, 5)[4]
