"""Waiting for something to become true, with an end; and a clock for limits that a machine's hiccup must not use up."""

import asyncio
import threading
import time

TICK_S = 0.02
COUNTED_S = 0.1  # of a gap in which this process did nothing; a busy machine lets it wait for less


async def until(is_so, within_s: float = 10.0) -> None:
    """Give the loop its turns until *is_so()*; fails after *within_s* in which the machine let this process run."""
    deadline = let_run_s() + within_s
    while not is_so():
        assert let_run_s() < deadline, f"did not happen within {within_s} s"
        await asyncio.sleep(0.005)


def let_run_s() -> float:
    """
    Give the seconds of a clock that goes on only while the machine lets this process run, waiting included.

    Shared machines stop everything on them for a second now and then, and no limit of half a second outlives that. What
    the process itself does, such as not to give an event loop its turns, counts in full.
    """
    return _clock.read()


class _LetRun:
    """Looks at the time so often that a longer gap can only be the machine's, unless the processor was used in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._let_run_s = 0.0
        self._at_s, self._cpu_s = time.monotonic(), time.process_time()
        threading.Thread(target=self._tick, daemon=True).start()

    def read(self) -> float:
        with self._lock:
            at_s, cpu_s = time.monotonic(), time.process_time()
            self._let_run_s += min(at_s - self._at_s, COUNTED_S + cpu_s - self._cpu_s)
            self._at_s, self._cpu_s = at_s, cpu_s
            return self._let_run_s

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_S)
            self.read()


_clock = _LetRun()
