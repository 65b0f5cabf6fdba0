"""
Retry budget: how many requests of a pool may be sent to another worker after one has failed them.

A retry saves a request when one worker fails. When all do, it doubles the load of those that are still standing, and
turns a brown-out into an outage. So retries are a share of what is asked, as in Finagle's RetryBudget (2016: 20 % of
the requests of the last 10 s, and a few more so that a quiet service has any), which Envoy and tower have taken up.

The first move of a request whose worker is gone is not a retry in this sense, and takes nothing of the budget: its work
was lost, so the pool has no more to do than was let in, and no more moves of this kind happen than requests. Else
workers that die one after another, each with hundreds of streams, would spend what was meant for a brown-out.

No clock and no I/O: times are seconds of any clock that only goes forward.
"""

from dataclasses import dataclass

from gateway.core.sliding_window import SlidingCounts

WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class RetryRules:
    """
    Retries allowed within any WINDOW_S: *share* of the requests that began in it, and *retries_min* besides.

    When an engine fails everything that it had is retried at once, so *retries_min* is what one may have.
    """

    share: float = 0.2
    retries_min: int = 300


class RetryBudget:
    """What the requests of one pool may retry at one gateway."""

    def __init__(self, rules: RetryRules) -> None:
        self._rules = rules
        self._counts = SlidingCounts(WINDOW_S)  # requests, retries
        self.refused = 0

    def __repr__(self) -> str:
        counts = self._counts
        return f"<RetryBudget [{counts.second} retries of {counts.first} requests, {self.refused} refused]>"

    def note_request(self, now_s: float) -> None:
        """Count a request that is sent to its first worker."""
        self._counts.add(now_s, first=1)

    def take(self, now_s: float) -> bool:
        """Take a retry out of the budget; tell whether there was one left."""
        self._counts.look(now_s)
        if self._counts.second >= self._rules.retries_min + self._rules.share * self._counts.first:
            self.refused += 1
            return False
        self._counts.add(now_s, second=1)
        return True

    def give_back(self, now_s: float) -> None:
        """Put back a retry that found no other worker."""
        self._counts.add(now_s, second=-1)


class RetryBudgets:
    """The budget of each pool: one that fails as a whole takes nothing from another."""

    def __init__(self, rules: RetryRules) -> None:
        self.rules = rules
        self._budgets: dict[str, RetryBudget] = {}

    def of(self, pool: str) -> RetryBudget:
        """Give a pool's budget."""
        budget = self._budgets.get(pool)
        if budget is None:
            budget = self._budgets[pool] = RetryBudget(self.rules)
        return budget

    def refused(self) -> dict[str, float]:
        """Count the retries that were refused so far, by pool."""
        return {pool: budget.refused for pool, budget in self._budgets.items()}
