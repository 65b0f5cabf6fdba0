"""What is under way on one worker: this gateway's own, what other gateways told, what its engine says beyond that."""

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple


class Told(NamedTuple):
    """What another gateway has outstanding on a worker, the most it would give it, and until when its word holds."""

    requests: int
    prefill_tokens: int
    credit_seqs: int
    ends_s: float


@dataclass(slots=True)
class WorkerWork:
    """
    Requests, work and prompt tokens outstanding on a worker.

    *excess* is what the engine reported beyond all that gateways know of: somebody who asks it directly. Its report is
    up to two beats older than our own count, so it is held against the most that was known since then.
    """

    tokens: int = 0
    requests: int = 0
    own_prefill_tokens: int = 0
    told: dict[str, Told] = field(default_factory=dict)
    excess: int = 0
    _peaks: tuple[int, int] = (0, 0)  # the most requests known since the last beat, and between the two before
    _excess_before: int = 0

    @property
    def others(self) -> int:
        """Requests that are not this gateway's."""
        return self.excess + (sum(told.requests for told in self.told.values()) if self.told else 0)

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens outstanding, over all gateways."""
        told = sum(told.prefill_tokens for told in self.told.values()) if self.told else 0
        return self.own_prefill_tokens + told

    @property
    def known(self) -> int:
        """Requests that gateways know of, this one's and those that others told."""
        return self.requests + (sum(told.requests for told in self.told.values()) if self.told else 0)

    def credit_seqs(self, own: int) -> int:
        """Give the worker's credit: the least that any gateway would give it, *own* being this one's."""
        return min((own, *(told.credit_seqs for told in self.told.values()))) if self.told else own

    def count(self, tokens: int, requests: int, prefill_tokens: int) -> None:
        """Add to this gateway's own work, or take from it."""
        self.tokens += tokens
        self.requests += requests
        self.own_prefill_tokens += prefill_tokens
        self._note_peak()

    def tell(self, gateway: str, told: Told) -> None:
        """Take another gateway's word."""
        self.told[gateway] = told
        self._note_peak()

    def expire(self, now_s: float) -> float:
        """Drop the words that no longer hold; gives when the next one ends."""
        self.told = {gateway: told for gateway, told in self.told.items() if told.ends_s > now_s}
        return min((told.ends_s for told in self.told.values()), default=inf)

    def report(self, engine_requests: int) -> None:
        """Take the engine's count of its requests. What others told is late, so beside them it must say it twice."""
        beyond = max(0, engine_requests - max(self._peaks))
        self.excess = min(beyond, self._excess_before) if self.told else beyond
        self._excess_before = beyond
        self._peaks = (self.known, self._peaks[0])

    def _note_peak(self) -> None:
        known = self.known
        if known > self._peaks[0]:
            self._peaks = (known, self._peaks[1])
