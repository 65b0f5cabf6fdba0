"""Requests that come again: what each gateway remembers of them, shared with the others through Redis."""

import asyncio
from collections import deque
from contextlib import suppress

import structlog

from gateway.core.returns import KEPT_MAX, KEPT_MS, Returns
from gateway.errors import StoreUnavailable
from gateway.stores.redis_client import RedisClient, Script, redis_answering

TELL_S = 0.5  # less than the shortest Retry-After, which is 1 s
TOLD_AT_ONCE_MAX = 1000  # some 60 KB; in a burst of refusals the latest count

_KEY = "sluice:{returns}"
_SHARE = Script("returns")

log = structlog.get_logger()


class RedisReturns:
    """A ReturnStore in memory that hears of other gateways' through Redis, and tells them its own, twice a second."""

    def __init__(self, redis: RedisClient, owner: str, *, store_timeout_s: float = 0.5, tell_s: float = TELL_S) -> None:
        self._redis = redis
        self._owner = owner
        self._store_timeout_s = store_timeout_s
        self._tell_s = tell_s
        self._local = Returns()
        self._untold: deque[str] = deque(maxlen=TOLD_AT_ONCE_MAX)
        self._heard_ms = 0
        self._is_up = True
        self._task: asyncio.Task[None] | None = None

    def note(self, name: bytes, arrived_ms: int) -> None:
        self._local.note(name, arrived_ms)
        self._untold.append(f"{name.hex()} {arrived_ms} {self._owner}")

    def take(self, name: bytes, now_ms: int) -> int | None:
        return self._local.take(name, now_ms)

    def __len__(self) -> int:
        return len(self._local)

    async def start(self) -> None:
        """Begin sharing."""
        await self._share()
        self._task = asyncio.create_task(self._keep_sharing(), name="sharing returns")

    async def aclose(self) -> None:
        """Tell the others what they do not know yet, and stop sharing."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
            await self._share()

    async def _keep_sharing(self) -> None:
        while True:
            await asyncio.sleep(self._tell_s)
            try:
                await self._share()
            except Exception:  # what one gateway wrote must not end another's sharing
                log.exception("returns_failed")

    async def _share(self) -> None:
        """Tell what is new here, and take in what is new elsewhere; with Redis away, keep the latest."""
        telling = list(self._untold)
        self._untold.clear()
        try:
            async with redis_answering(self._store_timeout_s):
                bounds = self._heard_ms, KEPT_MS, KEPT_MAX
                self._heard_ms, *heard = await _SHARE.run(self._redis, [_KEY], [*bounds, *telling])
        except StoreUnavailable as error:
            self._untold.extendleft(reversed(telling[len(self._untold) :]))
            self._note_change(is_up=False, reason=error.reason)
        else:
            self._note_change(is_up=True)
            for words in heard:
                self._hear(words)

    def _hear(self, words: str) -> None:
        with suppress(ValueError):  # another version's words
            name, arrived_ms, owner = words.split(" ")
            if owner != self._owner:
                self._local.note(bytes.fromhex(name), int(arrived_ms))

    def _note_change(self, *, is_up: bool, reason: str = "") -> None:
        if is_up != self._is_up:
            self._is_up = is_up
            if is_up:
                log.info("returns_shared_again")
            else:
                log.warning("returns_store_lost", reason=reason)

    def __repr__(self) -> str:
        return f"<RedisReturns [{len(self)} went away, {len(self._untold)} untold]>"
