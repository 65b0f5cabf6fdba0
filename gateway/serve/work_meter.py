"""What this gateway's requests ask of each pool, and what was done for them: one gateway's share of the demand."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.core.demand import Share
from gateway.core.scaling import ArrivalRate, WorkRate
from gateway.core.scheduling import Ticket

AGAIN_MS = 1000  # a ticket that claims to have come earlier than that is no new arrival
TRUTH_KEPT = 0.98  # of what earlier requests came to, at each one that ends: the last 50 make two thirds
TRUTH_RANGE = (0.1, 10.0)  # a prediction that is further off than this was no prediction


@dataclass(slots=True)
class _Request:
    """A request that waits, or is on a worker: *spent* tells the work done, of which *seen* was counted."""

    pool: str
    work: int
    spent: Callable[[], int] | None = None
    seen: int = 0


@dataclass(slots=True)
class _Pool:
    arrivals: ArrivalRate = field(default_factory=ArrivalRate)
    served: WorkRate = field(default_factory=WorkRate)
    backlog: int = 0
    waiting: int = 0
    in_flight: int = 0
    predicted: float = 0.0
    came_to: float = 0.0

    @property
    def truth(self) -> float:
        """What requests came to, as a part of what was predicted."""
        low, high = TRUTH_RANGE
        return min(max(self.came_to / self.predicted, low), high) if self.predicted else 1.0


class WorkMeter:
    """
    Counts work by pool; admission tells of each request when it enters, starts and leaves.

    `has_news` is set by a request for a pool that is not `awake`: nobody has asked for a worker of it yet.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.has_news = asyncio.Event()
        self.awake: set[str] = set()
        self._clock = clock
        self._requests: dict[str, _Request] = {}
        self._pools: dict[str, _Pool] = {}

    def enter(self, pool: str, ticket: Ticket) -> None:
        """Note that a request waits. One that was here before, or was left for later, is no new arrival."""
        known = self._pools.setdefault(pool, _Pool())
        if ticket.head_start_ms < AGAIN_MS:
            known.arrivals.add(ticket.work, self._clock())
        if pool not in self.awake:
            self.has_news.set()
        self._requests[ticket.id] = _Request(pool, ticket.work)
        known.waiting += 1
        known.backlog += ticket.work

    def start(self, ticket_id: str, spent: Callable[[], int]) -> None:
        """Note that it has its worker; *spent* tells the work done for it so far."""
        request = self._requests[ticket_id]
        request.spent = spent
        known = self._pools[request.pool]
        known.waiting -= 1
        known.backlog -= request.work
        known.in_flight += 1

    def leave(self, ticket_id: str) -> None:
        """Note that it has ended or gone away. Repeating changes nothing."""
        request = self._requests.pop(ticket_id, None)
        if request is None:
            return
        known = self._pools[request.pool]
        if request.spent is None:
            known.waiting -= 1
            known.backlog -= request.work
            return
        known.in_flight -= 1
        self._count(request, known, self._clock())
        if request.seen:
            known.predicted = TRUTH_KEPT * known.predicted + request.work
            known.came_to = TRUTH_KEPT * known.came_to + request.seen

    def shares(self) -> dict[str, Share]:
        """Give this gateway's share of each pool's demand as of now; costs a look at each request in flight."""
        now_s = self._clock()
        for request in self._requests.values():
            if request.spent is not None:
                self._count(request, self._pools[request.pool], now_s)
        return {pool: _share(known, now_s) for pool, known in self._pools.items()}

    @staticmethod
    def _count(request: _Request, known: _Pool, now_s: float) -> None:
        assert request.spent is not None, "only what has started is counted"
        spent = request.spent()
        if spent > request.seen:
            known.served.add(spent - request.seen, now_s)
            request.seen = spent

    def __repr__(self) -> str:
        return f"<WorkMeter [{len(self._requests)} requests, {len(self._pools)} pools]>"


def _share(known: _Pool, now_s: float) -> Share:
    return Share(
        arrival_rate=known.arrivals.per_s(now_s) * known.truth,
        backlog_tokens=known.backlog * known.truth,
        waiting=known.waiting,
        in_flight=known.in_flight,
        served_rate=known.served.per_s(now_s),
    )
