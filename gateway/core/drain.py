"""A gateway's way out: it says that it goes, then closes its door, then lets end what has begun."""

from math import inf

# Whoever has not had its turn in the first half of the drain is sent to another gateway: the other is for answers.
WAIT_SHARE = 0.5


class Drain:
    """Where a gateway is on that way; times are monotonic seconds."""

    def __init__(self) -> None:
        self.is_announced = False
        self._wait_ends_s = inf

    def announce(self) -> None:
        """Note that the gateway is about to go; it still takes what comes."""
        self.is_announced = True

    def begin(self, now_s: float, drain_s: float) -> None:
        """Note that the door is closed, and that what has begun may end within *drain_s*."""
        self.is_announced = True
        self._wait_ends_s = now_s + WAIT_SHARE * drain_s

    @property
    def has_begun(self) -> bool:
        """Whether the door is closed."""
        return self._wait_ends_s < inf

    def wait_left_s(self, now_s: float) -> float:
        """Tell how long a request may still wait for its turn."""
        return self._wait_ends_s - now_s

    def is_in_vain(self, eta_s: float | None, now_s: float) -> bool:
        """Tell whether a request that expects its turn in *eta_s* (None: it does not know) waits here in vain."""
        left_s = self.wait_left_s(now_s)
        return left_s <= 0 or (eta_s is not None and eta_s > left_s)

    def __repr__(self) -> str:
        return f"<Drain [{'begun' if self.has_begun else 'announced' if self.is_announced else 'not begun'}]>"
