"""The line in front of one pool: a slot per request, in fair order, over all gateways."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.core.scheduling import Ticket


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How many requests of the pool are in flight and waiting, over all gateways, and how many slots there are."""

    in_flight: int
    waiting: int
    slots: int


class AdmissionQueue(Protocol):
    """
    Slots of one pool and the tickets that wait for them.

    Order: classes strictly by urgency; inside a class round over tenants; inside a tenant first come, first served. At
    most *waiting_max* tickets wait. A store that several gateways share gives one order over all of them.
    """

    def slot(self, ticket: Ticket) -> AbstractAsyncContextManager[None]:
        """
        Hold one slot while the block runs; wait in line for it first.

        Entering is atomic with every other enter, leave and grant. An id is one request's: a store that hears of it
        twice keeps one ticket. It blocks until the slot is granted. Cancelling it at any instant, the instant of the
        grant included, leaves neither ticket nor slot behind. Leaving the block frees the slot and grants it to the
        next ticket in the same step.

        Raises Refused(QUEUE_FULL) if the line is full, StoreUnavailable if the store does not answer within its limit
        (also while waiting: the ticket is then gone here and is reaped there).
        """

    def set_slots(self, slots: int) -> None:
        """
        Tell how many requests the pool's ready workers take together; the latest word of any gateway counts.

        Never blocks. Fewer slots than in flight revokes nothing: no grant is made until enough have left.
        """

    async def occupancy(self) -> Occupancy:
        """Count what is in flight and waiting. Raises StoreUnavailable."""

    async def start(self) -> None:
        """Begin the heartbeat that keeps this gateway's tickets and slots, and the listening for grants."""

    async def aclose(self) -> None:
        """Stop; give back what this gateway still holds. One that dies instead is reaped within 5 s by another."""
