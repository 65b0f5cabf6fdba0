"""The orders that workers were given, as one gateway knows them, and what it tells the others of them."""

from collections.abc import Iterable, Iterator

from gateway.core.orders import ORDERS, Order, Ordered

# An order outlives its worker's silence by so long: a cut in the network must not bring back what was cordoned.
# A worker that says goodbye is free of its order at once, so that what starts under the same name serves.
KEPT_S = 60.0


class WorkerOrders:
    """Orders by worker, each kept until KEPT_S after the worker was last listed; times are monotonic seconds."""

    def __init__(self) -> None:
        self._orders: dict[str, Ordered] = {}
        self._ends_s: dict[str, float] = {}

    def of(self, worker: str) -> Order:
        """Give what a worker is to do; who was told nothing serves."""
        known = self._orders.get(worker)
        return known.order if known else Order.SERVE

    def give(self, worker: str, order: Order, now_s: float) -> bool:
        """Note an order given here; tell whether it is another one than before."""
        known = self._orders.get(worker)
        if order is self.of(worker):
            return False
        return self.hear(worker, Ordered(known.number + 1 if known else 1, order), now_s + KEPT_S)

    def hear(self, worker: str, ordered: Ordered, ends_s: float) -> bool:
        """Take what is said of a worker's order, kept until *ends_s*; tell whether that changes what it is to do."""
        known = self._orders.get(worker)
        if known == ordered:  # never renewed by hearsay: gateways would keep it alive among themselves for ever
            self._ends_s[worker] = max(self._ends_s[worker], ends_s)
        if not ordered.is_over(known):
            return False
        before = self.of(worker)
        self._orders[worker], self._ends_s[worker] = ordered, ends_s
        return ordered.order is not before

    def keep(self, listed: Iterable[str], now_s: float) -> None:
        """
        Keep the orders of workers that are *listed*, and forget those whose time is over.

        That it is to serve again is kept for its time only: until nobody can have missed it.
        """
        for worker in self._orders.keys() & set(listed):
            if self.of(worker) is not Order.SERVE:
                self._ends_s[worker] = now_s + KEPT_S
        for worker in [worker for worker, ends_s in self._ends_s.items() if ends_s <= now_s]:
            del self._orders[worker], self._ends_s[worker]

    def words(self, now_s: float) -> Iterator[str | int]:
        """Give all that is known, as Redis takes it: worker, "number order", ms left, and so on."""
        for worker, ordered in self._orders.items():
            left_ms = int((self._ends_s[worker] - now_s) * 1000)
            if left_ms > 0:  # told with no time left it would be heard as new by those who forgot it
                yield from (worker, f"{ordered.number} {ordered.order.label}", left_ms)

    def __len__(self) -> int:
        return len(self._orders)


def read_ordered(words: str) -> Ordered | None:
    """Read what `words` wrote; None for an order that this version does not know."""
    number, _, label = words.partition(" ")
    order = ORDERS.get(label)
    return Ordered(int(number), order) if order and number.isdigit() else None
