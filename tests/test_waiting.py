"""The clock that tests measure their limits by."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.waiting import let_run_s

BLOCKS = """
import time
from tests.waiting import let_run_s
began_s = let_run_s()
print("began", flush=True)
{what}
print(let_run_s() - began_s)
"""
SLEEPS = "time.sleep(1.5)"
COMPUTES = "sum(range(1 << 26))"  # one call into C, in which no other thread runs


def measured(what: str, stopped_s: float = 0.0) -> float:
    """Give the seconds that a process counts for *what*; it is stopped meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKS.format(what=what)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "began\n"
        if stopped_s:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(stopped_s)
            os.kill(process.pid, signal.SIGCONT)
        return float(process.stdout.readline())


def test_a_stopped_process_counts_next_to_nothing():
    assert 0.5 < measured(SLEEPS, stopped_s=1.0) < 1.0


def test_what_the_process_does_itself_counts_in_full():
    began_s = time.process_time()
    sum(range(1 << 26))
    assert measured(COMPUTES) == pytest.approx(time.process_time() - began_s, rel=0.5)


def test_waiting_counts_in_full():
    began_s, at_s = let_run_s(), time.monotonic()
    time.sleep(0.5)
    assert 0.4 < let_run_s() - began_s <= time.monotonic() - at_s + 0.01
