"""Two counts over the last seconds, such as answers and faults, or requests and retries."""

from collections import deque

BUCKETS = 10  # a window's end moves in steps of a tenth of it


class SlidingCounts:
    """How often two things happened within *window_s*, to a tenth of it. Times are seconds that only go forward."""

    __slots__ = ("_bucket_s", "_buckets", "first", "second")

    def __init__(self, window_s: float) -> None:
        self._bucket_s = window_s / BUCKETS
        self._buckets: deque[list[int]] = deque()  # number, first, second; the oldest first
        self.first = 0
        self.second = 0

    def __repr__(self) -> str:
        return f"<SlidingCounts [{self.first} and {self.second} within {self._bucket_s * BUCKETS:g} s]>"

    def add(self, now_s: float, first: int = 0, second: int = 0) -> None:
        """Count what happens now."""
        number = self.look(now_s)
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0, 0])
        self._buckets[-1][1] += first
        self._buckets[-1][2] += second
        self.first += first
        self.second += second

    def look(self, now_s: float) -> int:
        """Drop what is too long ago from the two counts; gives the number of the bucket of *now_s*."""
        number = int(now_s / self._bucket_s)
        while self._buckets and self._buckets[0][0] <= number - BUCKETS:
            _, first, second = self._buckets.popleft()
            self.first -= first
            self.second -= second
        return number

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self.first = self.second = 0
