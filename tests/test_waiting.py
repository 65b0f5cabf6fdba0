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
SLEEPS = "time.sleep(3)"
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
    """The machine may have stopped it for another second."""
    assert 0.5 < measured(SLEEPS, stopped_s=1.0) < 2.5


def test_what_the_process_does_itself_counts_in_full():
    began_s = time.process_time()
    sum(range(1 << 26))
    assert measured(COMPUTES) == pytest.approx(time.process_time() - began_s, rel=0.5)


def test_waiting_counts_in_full():
    """On a machine that lets it run in one of three tries."""
    assert max(waited_s(0.3) for _ in range(3)) > 0.29


def waited_s(wait_s):
    began_s = let_run_s()
    time.sleep(wait_s)
    return let_run_s() - began_s
