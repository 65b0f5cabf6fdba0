"""
A clock that can be stepped from outside, for a process that has this folder on its PYTHONPATH.

CHAOS_CLOCK names a file with one little-endian double: so many seconds are added to the time of day, from the moment
they are written. Time that only runs (monotonic, perf_counter) is left alone, as a step of a system's clock does.
"""

import mmap
import os
import struct
import time

_PLACE = struct.Struct("<d")


def _make_steppable(path: str) -> None:
    with open(path, "r+b") as file:  # noqa: PTH123  at the very start of Python, the less is imported the better
        shared = mmap.mmap(file.fileno(), _PLACE.size, access=mmap.ACCESS_READ)
    true_s, true_ns = time.time, time.time_ns
    time.time = lambda: true_s() + _PLACE.unpack_from(shared)[0]
    time.time_ns = lambda: true_ns() + int(_PLACE.unpack_from(shared)[0] * 1e9)


if "CHAOS_CLOCK" in os.environ:
    _make_steppable(os.environ["CHAOS_CLOCK"])
