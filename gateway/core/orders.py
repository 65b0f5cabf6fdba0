"""What an operator has ordered of a worker: to serve, to be passed over, to sleep, or to end what it has and go."""

from dataclasses import dataclass
from enum import Enum

from gateway.core.roster import WorkerState


class Order(Enum):
    """What a worker is to do, and how strong that is: of two orders given at once the stronger one holds."""

    SERVE = ("serve", 0)
    CORDON = ("cordon", 1)
    SLEEP = ("sleep", 2)
    DRAIN = ("drain", 3)

    def __init__(self, label: str, strength: int) -> None:
        self.label = label
        self.strength = strength


ORDERS = {order.label: order for order in Order}


@dataclass(frozen=True, slots=True)
class Ordered:
    """
    The *number*-th order that a worker was given, as far as whoever gave it knew.

    Of what several gateways say the later one holds, whoever hears them in whatever order: the higher number, and of
    two with one number the stronger order.
    """

    number: int
    order: Order

    def is_over(self, other: "Ordered | None") -> bool:
        """Tell whether this one holds and not *other*."""
        return other is None or (self.number, self.order.strength) > (other.number, other.order.strength)


@dataclass(frozen=True, slots=True)
class Standing:
    """
    How a worker stands with one gateway: its order, the requests that gateways have on it, how long it is in its state.

    The state's age counts from when this gateway first saw it.
    """

    order: Order = Order.SERVE
    in_flight: int = 0
    state_s: float = 0.0


def state_under(order: Order, state: WorkerState) -> WorkerState:
    """Tell what a worker that says it is in *state* is to the router and to people, given its *order*."""
    if order is Order.DRAIN:
        return WorkerState.DRAINING
    if order in (Order.CORDON, Order.SLEEP) and state is WorkerState.READY:
        return WorkerState.CORDONED
    return state
