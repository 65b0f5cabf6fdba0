"""
Slow start: a worker that has just become ready, or has come back from its ejection, is given its credit by and by.

Its caches are cold and its graphs are captured lazily, so its first requests are its slowest, and with all credit at
once a pool's whole backlog would be among them. Credit begins at a tenth, grows by one sequence with each answer (TCP's
slow start, RFC 5681: it doubles with each round of answers), and is whole after *slow_start_s* in any case (Envoy's
slow start mode, which also begins at a tenth).

No clock and no I/O: times are seconds of any clock that only goes forward.
"""

from math import ceil, inf

FIRST_SHARE = 0.1
FIRST_SEQS_MIN = 4  # as core/credit.py's floor: fewer would leave most of a batch's cost unshared
TICK_S = 0.25  # how often growth by time alone is worth a look: as often as pools are counted anew


class SlowStart:
    """The part of its credit that one worker may use. *slow_start_s* 0: all of it, always."""

    __slots__ = ("_answers", "_began_s", "_is_under_way", "_slow_start_s")

    def __init__(self, slow_start_s: float) -> None:
        self._slow_start_s = slow_start_s
        self._began_s = -inf
        self._answers = 0
        self._is_under_way = False

    def begin(self, now_s: float) -> None:
        """Start anew, from a tenth."""
        self._began_s, self._answers, self._is_under_way = now_s, 0, True

    def note_answer(self) -> None:
        """Count an answer."""
        self._answers += 1

    def look(self, now_s: float) -> bool:
        """Tell whether time may have changed it since the last look."""
        was_under_way = self._is_under_way
        self._is_under_way = was_under_way and not self._is_over(now_s)
        return was_under_way

    def _is_over(self, now_s: float) -> bool:
        return now_s - self._began_s >= self._slow_start_s

    def seqs(self, credit_seqs: int, now_s: float) -> int:
        """Give how much of *credit_seqs* may be used."""
        if self._is_over(now_s):
            return credit_seqs
        first = max(FIRST_SEQS_MIN, ceil(FIRST_SHARE * credit_seqs))
        by_time = int(credit_seqs * (now_s - self._began_s) / self._slow_start_s)
        return min(credit_seqs, max(first + self._answers, by_time))

    def due_s(self, now_s: float) -> float:
        """Tell when to look again."""
        return now_s + TICK_S if self._is_under_way else inf
