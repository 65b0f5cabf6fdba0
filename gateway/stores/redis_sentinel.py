"""
Redis behind Sentinel: a client of whichever server is the master now.

Each new connection asks the sentinels where the master is, so a gateway follows a failover with the first connection
that breaks; what a call lost by that is found by whoever made it, as with a single Redis that was away.
"""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.redis_url import SentinelUrl

SENTINEL_TIMEOUT_S = 0.2  # two may hang, and the third is still asked within queue.store_timeout_s
_DEMOTED = ("READONLY", "NOREPLICAS")  # inside a script's error too, where Redis before 7 keeps them


def connect_through(url: SentinelUrl, **options: Any) -> Redis:
    """Make a client of the master that *url* leads to; *options* go for its connections, unless *url* has others."""
    said: dict[str, Any] = {name: value for name, value in parse_url(url.one).items() if name != "host"}
    is_tls = said.pop("connection_class", None) is not None
    tls = {"ssl": is_tls} | {name: value for name, value in said.items() if name.startswith("ssl_")}
    timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), SENTINEL_TIMEOUT_S)
    asking = {**tls, **timeouts, **url.sentinel_options, "retry": Retry(NoBackoff(), 0)}
    client = _Sentinels(url.sentinels, sentinel_kwargs=asking).master_for(  # type: ignore[no-untyped-call]
        url.master,
        connection_pool_class=_MasterPool,
        connection_class=_MasterOverTls if is_tls else _Master,
        **{**options, **said},
    )
    assert isinstance(client, Redis), "redis-py makes a plain client unless told otherwise"
    return client


class _Sentinels(Sentinel):
    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Ask one sentinel after the other. Its errors are told in a sentence: redis-py's list every option."""
        try:
            host, port = await super().discover_master(service_name)
        except MasterNotFoundError:
            raise MasterNotFoundError(
                f"none of {len(self.sentinels)} sentinels names a running master {service_name!r}: they must be "
                "reachable, know that name, and be given their password, if they have one, as sentinel_password"
            ) from None
        return host, port


class _MasterPool(SentinelConnectionPool):
    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


class _Master(SentinelManagedConnection):
    """A connection that is given up when its server says that it may not write: there is another master."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if not any(word in str(error) for word in _DEMOTED):
                raise
            await self.disconnect()
            raise RedisConnectionError(f"it is no master that may write: {error}") from error


class _MasterOverTls(_Master, SSLConnection):
    """The same, with TLS."""
