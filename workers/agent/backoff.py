"""How long to wait before a failed engine is started again."""

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Doubles from *first_s* to *longest_s*; starts over after *healthy_s* of health."""

    first_s: float = 1.0
    longest_s: float = 60.0
    healthy_s: float = 300.0
    _next_s: float = 0.0

    def after(self, healthy_for_s: float) -> float:
        """Give the pause after a failure that ended *healthy_for_s* of health (0 if it was never ready)."""
        if healthy_for_s >= self.healthy_s or not self._next_s:
            self._next_s = self.first_s
        pause_s = self._next_s
        self._next_s = min(pause_s * 2, self.longest_s)
        return pause_s
