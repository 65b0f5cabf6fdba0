"""Who is next: the order of tickets in front of a pool."""

from dataclasses import dataclass

from gateway.core.directory import ServiceClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A place in line. *id* is the request's; *work* its predicted cost in tokens."""

    id: str
    tenant: str
    service_class: ServiceClass
    work: int = 1
