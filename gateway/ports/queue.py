"""The line in front of one pool: a slot per request, in fair order, over all gateways."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.core.eta import Coming, Place
from gateway.core.scheduling import Ticket


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How many requests of the pool are in flight and waiting, over all gateways, and how many slots there are."""

    in_flight: int
    waiting: int
    slots: int


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Whose a ticket is, and its place in line; without one it has its slot, or has only just come."""

    tenant: str
    place: Place | None
    is_waiting: bool


class AdmissionQueue(Protocol):
    """
    Slots of one pool and the tickets that wait for them, in the order of `core/scheduling.py`.

    A store that several gateways share gives one order over all of them.
    """

    def slot(self, ticket: Ticket, spent: Callable[[], int] | None = None) -> AbstractAsyncContextManager[None]:
        """
        Hold one slot while the block runs; wait in line for it first.

        With a free slot and nobody waiting it is had at once; a store that is shared need not be asked for it. *spent*
        tells the work done so far, in the tokens of `Ticket.work`: what was charged is corrected by it as the block
        runs and when it is left; None means that the prediction stands.

        Entering is atomic with every other enter, leave and grant. An id is one request's: a store that hears of it
        twice keeps one ticket. It blocks until the slot is granted. Cancelling it at any instant, the instant of the
        grant included, leaves neither ticket nor slot behind. Leaving the block frees the slot and grants it to the
        next ticket in the same step.

        Raises Refused(QUEUE_FULL) if the line is full or the tenant has its share of it; Refused(WAIT_TOO_LONG) if the
        ticket is not expected to be granted by its deadline, judged when it comes and at every look at the line;
        StoreUnavailable if the store does not answer within its limit (also while waiting: the ticket is then gone
        here and is reaped there).
        """

    def set_slots(self, slots: int, coming: Iterable[Coming] = ()) -> None:
        """
        Tell how many requests the pool's ready workers take together, and which more are expected when.

        The latest word of any gateway counts. Never blocks. Fewer slots than in flight revokes nothing: no grant is
        made until enough have left.
        """

    def place(self, ticket_id: str) -> Place | None:
        """
        Tell where a ticket stands, from memory; None if it does not wait, or came after the last look at the line.

        A look is taken every second while somebody waits, less often if that costs much: every 2 s for a line of 5,000
        over Redis. `looked` ends with the next one.
        """

    async def looked(self) -> None:
        """Wait for the next look at the line: places may have changed."""

    async def whereabouts(self, ticket_id: str) -> Whereabouts | None:
        """
        Find a ticket that waits or has its slot, at any gateway; None if there is none.

        One that had its slot without a store being asked is known at its own gateway alone. Raises StoreUnavailable.
        """

    async def occupancy(self) -> Occupancy:
        """
        Count what is in flight and waiting. Raises StoreUnavailable.

        Of what began at other gateways without a store being asked, it counts what they have told: within a heartbeat.
        """

    async def start(self) -> None:
        """Begin the heartbeat that keeps this gateway's tickets and slots, the looks, the listening for grants."""

    async def aclose(self) -> None:
        """Stop; give back what this gateway still holds. One that dies instead is reaped within 5 s by another."""
