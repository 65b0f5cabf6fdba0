"""When a gateway speaks to Redis, and listens to it: at once, soon, or with the heartbeat; and all the time."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.errors import StoreUnavailable
from gateway.stores.redis_client import redis_answering
from gateway.stores.redis_line import RedisLine

SYNC_S = 0.15  # from a change that can wait to the call that tells it
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.02, 1.0


class Cadence:
    """Says when the next call is due: at least every *beat_s*."""

    def __init__(self, beat_s: float) -> None:
        self._beat_s = beat_s
        self._called_s = 0.0
        self._is_due = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None

    async def due(self) -> None:
        """Wait until a call is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._called_s + self._beat_s):
                await self._is_due.wait()

    def hurry(self) -> None:
        """Have a call made at once."""
        self._is_due.set()

    def soon(self) -> None:
        """Have a call made within SYNC_S of the last one."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_at(self._called_s + SYNC_S, self._is_due.set)

    def rest(self) -> None:
        """Note that a call begins, and that all that was due is in it."""
        self._called_s = asyncio.get_running_loop().time()
        self._is_due.clear()
        if self._soon:
            self._soon.cancel()
            self._soon = None


async def keep_listening(
    line: RedisLine, heard: Callable[[list[str]], None], lost: Callable[[], None], beat_s: float, timeout_s: float
) -> None:
    """Pass on what *line* hears, for ever; say *lost* whenever the connection broke, and a word may have with it."""
    pause_s = RECONNECT_S_MIN
    while True:
        try:
            async with redis_answering(beat_s + timeout_s):
                ticket_ids = await line.hear(beat_s)
        except StoreUnavailable:
            lost()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_S_MAX)
        else:
            pause_s = RECONNECT_S_MIN
            if ticket_ids is not None:
                heard(ticket_ids)
