"""
Redis Cluster: a client that sends each call to the server that has its keys.

All keys of a call lie in one slot (they share a hash tag), so a script is one server's work. The client learns from the
cluster which server has which slot, and again when a call was refused, broke off or hung.
"""

import asyncio
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url

from gateway.redis_url import ClusterUrl

CONNECTIONS_MAX = 10_000  # per server: as many as calls are under way, which the stores bound


class Cluster(RedisCluster):
    """Learns the cluster's layout anew also when a call was given up for its time: a server that hangs says nothing."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)
        except asyncio.CancelledError:
            self._initialize = True
            raise

    async def aclose(self) -> None:
        self._initialize = False  # else it takes itself for closed, and its connections stay open
        await super().aclose()

    async def disconnect_idle(self) -> None:
        """Have the next calls open connections."""
        for node in self.get_nodes():
            await node.disconnect_free_connections()


def connect_to_cluster(url: ClusterUrl, **options: Any) -> Cluster:
    """Make a client of the cluster of *url*; *options* go for its connections, unless *url* has others."""
    said: dict[str, Any] = {name: value for name, value in parse_url(url.one).items() if name not in {"host", "db"}}
    is_tls = said.pop("connection_class", None) is not None
    servers = [ClusterNode(host, port) for host, port in url.servers]
    return Cluster(startup_nodes=servers, ssl=is_tls, **{"max_connections": CONNECTIONS_MAX, **options, **said})
