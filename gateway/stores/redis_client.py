"""The border to Redis: the connection, scripts, and how its errors and its silence are told."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from gateway.errors import StoreUnavailable
from gateway.redis_url import SentinelUrl
from gateway.stores.redis_sentinel import connect_through

PATIENCE_STEPS = 4

_LUA = Path(__file__).parent / "lua"


def connect(url: str) -> Redis:
    """
    Make the client that the stores share; it connects when it is first used, to the master if *url* names sentinels.

    It never retries by itself and sets no limits on time: the stores bound every call, blocking pops by more than
    others.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": None,
        "socket_timeout": None,
    }
    through = SentinelUrl.parse(url)
    return connect_through(through, **options) if through else Redis.from_url(url, **options)


class Script:
    """A Lua script made of the named files in `lua/`, run by its hash; its text travels only if Redis lacks it."""

    def __init__(self, *names: str) -> None:
        self._text = "\n".join((_LUA / f"{name}.lua").read_text(encoding="utf-8") for name in names)
        self._digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, redis: Redis, keys: Sequence[str], args: Sequence[str | int]) -> list[Any]:
        """Run it; give its reply. Raises what redis-py raises."""
        try:
            reply = await redis.evalsha(self._digest, len(keys), *keys, *map(str, args))
        except NoScriptError:
            reply = await redis.eval(self._text, len(keys), *keys, *map(str, args))
        return cast("list[Any]", reply)


class _Patience:
    """Ends a timeout after *within_s* in which the loop was free to listen: else silence proves nothing."""

    def __init__(self, limit: asyncio.Timeout, within_s: float) -> None:
        self._limit = limit
        self._steps = PATIENCE_STEPS
        self._step_s = within_s / PATIENCE_STEPS
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._step_s, self._step)

    def _step(self) -> None:
        self._steps -= 1
        if self._steps:
            self._timer = self._loop.call_later(self._step_s, self._step)
        else:
            self._limit.reschedule(self._loop.time())

    def cancel(self) -> None:
        self._timer.cancel()


@asynccontextmanager
async def redis_answering(within_s: float) -> AsyncIterator[None]:
    """Bound the block by *within_s*; what redis-py raises in it, and its silence, become StoreUnavailable."""
    try:
        async with asyncio.timeout(None) as limit:
            patience = _Patience(limit, within_s)
            try:
                yield
            finally:
                patience.cancel()
    except TimeoutError:
        raise StoreUnavailable("redis", f"no answer within {within_s:g} s") from None
    except (RedisError, OSError) as error:
        raise StoreUnavailable("redis", f"{type(error).__name__}: {error}") from error
