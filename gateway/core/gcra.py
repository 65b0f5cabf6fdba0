"""
Rates: so much a minute, spread evenly over its seconds, and never more than that in any minute.

Two rules, both of which a quantity must pass.

**Smoothing** is GCRA (ITU-T I.371) kept as a leaky bucket: it drains by amount ÷ 60 a second and takes BURST_S seconds'
worth at once. What is larger than that passes when the bucket is empty, and the next one waits until it has drained.

**The minute**: what was taken in the 60 s up to now, together with what is asked for now, is at most the amount. So in
*any* closed window of 60 s at most the amount passes. Proof: let n be the last quantity that passes in a window, at
t. All others of the window were taken in [t - 60, t]; they lie in the seconds ⌊t⌋ - 60 to ⌊t⌋, which is what was
summed when n came; with n that sum was at most the amount. Since then nothing of the window has passed, and a
correction has only lowered it or is a debt. Whole seconds are looked at, so a steady flow gets 60/61 of the amount.

**Corrections.** What was estimated too high comes off the second in which it was taken: it can be used again while that
second is in the window, and counts in no window afterwards. What was estimated too low is a debt: it fills the bucket,
above its brim if need be, and nothing passes before it has drained; it is never forgiven.
"""

from dataclasses import dataclass, field
from math import ceil, floor, inf

WINDOW_S = 60
BURST_S = 5  # as much as a client that starts a handful of requests at once needs; the minute bounds it anyway


def burst(amount: int) -> float:
    """Give what may pass at once."""
    return max(1.0, amount / WINDOW_S * BURST_S)


def rate_s(amount: int) -> float:
    """Give what drains in a second; of nothing allowed, what is owed drains as of one."""
    return max(1, amount) / WINDOW_S


@dataclass(slots=True)
class Rate:
    """
    What was taken of one limit: the bucket's *level* at *at_s*, and what was *taken* in each second.

    The *amount* comes with each question, as a declared limit may change. Times are seconds of one clock; set back
    by more than a window, it starts anew.
    """

    amount: int = 0
    level: float = 0.0
    at_s: float = 0.0
    taken: dict[int, int] = field(default_factory=dict)

    def wait_s(self, amount: int, quantity: int, now_s: float) -> float:
        """Tell in how many seconds *quantity* may pass if nothing else does; 0: now, inf: never, it is too much."""
        if quantity > amount:
            return inf
        over = self.level_at(amount, now_s) + quantity - max(burst(amount), quantity)
        return max(0.0, over / rate_s(amount), self._window_wait_s(amount - quantity, now_s))

    def take(self, amount: int, quantity: int, now_s: float) -> None:
        """Take *quantity* now."""
        self._turn(amount, now_s)
        self.level += quantity
        self._add(now_s, quantity)

    def correct(self, amount: int, by: int, taken_s: float, now_s: float) -> None:
        """Correct by so much what was taken at *taken_s*: less than 0 is given back, more is a debt."""
        self._turn(amount, now_s)
        self.level = max(0.0, self.level + by)
        if by > 0:
            self._add(now_s, by)
        elif floor(taken_s) in self.taken:
            self.taken[floor(taken_s)] = max(0, self.taken[floor(taken_s)] + by)

    def used(self, amount: int, now_s: float) -> int:
        """Tell what was taken in the last minute, or what is still owed if that is more."""
        return max(sum(self._window(now_s).values()), ceil(self.level_at(amount, now_s)))

    def clears_in_s(self, amount: int, now_s: float) -> float:
        """Tell in how many seconds nothing is left of all that was taken."""
        newest = max((second for second, taken in self._window(now_s).items() if taken), default=-inf)
        return max(0.0, newest + 1 + WINDOW_S - now_s, self.level_at(amount, now_s) / rate_s(amount))

    def is_idle(self, now_s: float) -> bool:
        """Tell whether it is as if nothing had ever been taken."""
        return not self._window(now_s) and not self.level_at(self.amount, now_s)

    def level_at(self, amount: int, now_s: float) -> float:
        """Give the bucket's level."""
        if self.at_s > now_s + WINDOW_S:
            return 0.0
        return max(0.0, self.level - max(0.0, now_s - self.at_s) * rate_s(amount))

    def _window(self, now_s: float) -> dict[int, int]:
        first, last = floor(now_s) - WINDOW_S, floor(now_s) + WINDOW_S
        return {second: taken for second, taken in self.taken.items() if first <= second <= last}

    def _window_wait_s(self, room: int, now_s: float) -> float:
        """Tell when so little was taken in the last minute that there is *room* for it all."""
        window = self._window(now_s)
        over, wait_s = sum(window.values()) - room, 0.0
        for second in sorted(window):
            if over <= 0:
                break
            over -= window[second]
            wait_s = second + 1 + WINDOW_S - now_s
        return wait_s

    def _turn(self, amount: int, now_s: float) -> None:
        self.amount, self.level, self.at_s = amount, self.level_at(amount, now_s), now_s
        self.taken = self._window(now_s)

    def _add(self, now_s: float, quantity: int) -> None:
        self.taken[floor(now_s)] = self.taken.get(floor(now_s), 0) + quantity
