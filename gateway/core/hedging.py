"""
Hedging: when the first token of a stream is so late that a second worker may be asked for it too.

"Late" is beyond what nineteen in twenty streams of the pool need, as Dean and Barroso put it ("The Tail at Scale",
2013), so that few are hedged while nothing is wrong; and relative to what was predicted of each (core/credit.py): a
long prompt behind many others is slow, not stuck. How many are hedged is bounded besides, as retries are: when a whole
pool is slow, all are late, and asking twice would make it slower.

No clock and no I/O: times are seconds of any clock that only goes forward.
"""

from dataclasses import dataclass
from math import exp

from gateway.core.retry_budget import RetryBudgets, RetryRules

QUANTILE = 0.95
SAMPLES_MIN = 50  # before them nothing is known of a pool, and nothing is hedged
GAIN = 5.0  # above 1 ÷ (2 × density at the quantile), 4.9 for a log-normal with σ = 1: see core/prediction.py
GUESS_COUNTS = 10  # of a pool's first streams none leads far astray: what is guessed counts as much as so many of them
GAIN_MIN = 0.05  # a pool that has become slower is known as such within some dozens of streams
# A prediction below this is of a request with nearly nothing to compute: what it takes is the engine's step under way.
PREDICTED_S_MIN = 0.05
HEDGES_MIN = 1  # within a retry budget's window, so that a pool with little to do has any


@dataclass(frozen=True, slots=True)
class HedgeRules:
    """At most *share* of a pool's streams are given to a second worker, 0 for none, and none before *after_s_min*."""

    share: float = 0.0
    after_s_min: float = 1.0


class _Lateness:
    """
    The ratio of observed to predicted TTFT that QUANTILE of a pool's streams stay below.

    Found by stochastic approximation, as core/prediction.py does: one number, which follows what changes. A stream that
    was overtaken tells enough for it: its ratio was above.
    """

    __slots__ = ("ratio", "samples")

    def __init__(self) -> None:
        self.ratio = 1.0
        self.samples = 0

    def learn(self, ratio: float) -> None:
        self.samples += 1
        self.ratio *= exp(self._gain() * (QUANTILE - (ratio <= self.ratio)))

    def _gain(self) -> float:
        return max(GAIN / (self.samples + GUESS_COUNTS), GAIN_MIN)


class Hedges:
    """What the streams of each pool have shown, and how many of them may be hedged."""

    def __init__(self, rules: HedgeRules) -> None:
        self._rules = rules
        self._late: dict[str, _Lateness] = {}
        self._budgets = RetryBudgets(RetryRules(rules.share, HEDGES_MIN))
        self.won: dict[str, float] = {}
        self.lost: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Hedges [{self._rules.share:.0%} of streams, {len(self._late)} pools]>"

    @property
    def are_off(self) -> bool:
        return not self._rules.share

    def after_s(self, pool: str, predicted_s: float) -> float | None:
        """Give how long a stream waits for its first token before it is hedged; None while too little is known."""
        late = self._late.get(pool)
        if late is None or late.samples < SAMPLES_MIN:
            return None
        return max(self._rules.after_s_min, late.ratio * max(predicted_s, PREDICTED_S_MIN))

    def note_stream(self, pool: str, now_s: float) -> None:
        """Count a stream that is sent to its first worker."""
        self._budgets.of(pool).note_request(now_s)

    def learn(self, pool: str, ttft_s: float, predicted_s: float) -> None:
        """Take a TTFT; of a stream that was overtaken, the time until then."""
        self._late.setdefault(pool, _Lateness()).learn(ttft_s / max(predicted_s, PREDICTED_S_MIN))

    def take(self, pool: str, now_s: float) -> bool:
        """Take a hedge out of the pool's budget; tell whether there was one left."""
        return self._budgets.of(pool).take(now_s)

    def give_back(self, pool: str, now_s: float) -> None:
        """Put back a hedge for which no other worker had room."""
        self._budgets.of(pool).give_back(now_s)

    def count(self, pool: str, *, has_won: bool) -> None:
        """Count a hedge that ended, by whether the second worker answered first."""
        counts = self.won if has_won else self.lost
        counts[pool] = counts.get(pool, 0) + 1
