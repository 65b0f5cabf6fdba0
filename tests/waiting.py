"""Waiting for something to become true, with an end."""

import asyncio
import time


async def until(is_so, within_s: float = 10.0) -> None:
    """Give the loop its turns until *is_so()*; fails after *within_s*."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"did not happen within {within_s} s"
        await asyncio.sleep(0.005)
