"""The clock that tests measure their limits by."""

import os
import signal
import subprocess
import sys
import time

from tests.waiting import let_run_s

SCRIPT = """
import time
from tests.waiting import let_run_s
clocks = let_run_s, time.monotonic, time.process_time
began_s = [clock() for clock in clocks]
print("began", flush=True)
{what}
print(*(clock() - began for clock, began in zip(clocks, began_s)))
"""
SLEEPS = "time.sleep(3)"
COMPUTES = "sum(range(1 << 26))"  # one call into C, in which no other thread runs


def measured(what: str, stopped_s: float = 0.0) -> list[float]:
    """Give the seconds that a process counts for *what*, and those that pass and that it computes; it is stopped."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(what=what)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "began\n"
        if stopped_s:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(stopped_s)
            os.kill(process.pid, signal.SIGCONT)
        return [float(word) for word in process.stdout.readline().split()]


def test_a_stopped_process_counts_next_to_nothing():
    counted_s, passed_s, _ = measured(SLEEPS, stopped_s=1.0)
    assert 0.5 < counted_s < passed_s - 0.8


def test_what_the_process_does_itself_counts_in_full():
    counted_s, _, computed_s = measured(COMPUTES)
    assert counted_s > 0.99 * computed_s > 0.2


def test_waiting_counts_in_full():
    """On a machine that lets it run in one of three tries."""
    assert max(waited_s(0.3) for _ in range(3)) > 0.29


def waited_s(wait_s):
    began_s = let_run_s()
    time.sleep(wait_s)
    return let_run_s() - began_s
