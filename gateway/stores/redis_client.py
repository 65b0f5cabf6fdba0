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
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from gateway.errors import StoreUnavailable
from gateway.redis_url import ClusterUrl, SentinelUrl
from gateway.stores.redis_cluster import Cluster, connect_to_cluster
from gateway.stores.redis_sentinel import connect_through

PATIENCE_STEPS = 4

RedisClient = Redis | Cluster

_LUA = Path(__file__).parent / "lua"


def connect(url: str) -> RedisClient:
    """
    Make the client that the stores share; it connects when it is first used.

    That is to the master if *url* names sentinels, and to all servers of a cluster.

    It never retries by itself and sets no limits on time: the stores bound every call, blocking pops by more than
    others.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": None,
        "socket_timeout": None,
    }
    if through := SentinelUrl.parse(url):
        return connect_through(through, **options)
    if cluster := ClusterUrl.parse(url):
        return connect_to_cluster(cluster, **options)
    return Redis.from_url(url, **options)


async def drop_idle_connections(redis: RedisClient) -> None:
    """Have the next call open a connection: one of them died, so others may have and not know it."""
    if isinstance(redis, Cluster):
        await redis.disconnect_idle()
    else:
        await redis.connection_pool.disconnect(inuse_connections=False)


class Script:
    """A Lua script made of the named files in `lua/`, run by its hash; its text travels only if Redis lacks it."""

    def __init__(self, *names: str) -> None:
        self._text = "\n".join((_LUA / f"{name}.lua").read_text(encoding="utf-8") for name in names)
        self._digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, redis: RedisClient, keys: Sequence[str], args: Sequence[str | int]) -> list[Any]:
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
    except (RedisError, RedisClusterException, OSError) as error:  # the second is not one of the first
        raise StoreUnavailable("redis", f"{type(error).__name__}: {error}") from error
