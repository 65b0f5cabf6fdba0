"""What a Redis behind Sentinel and a Redis Cluster have in common for tests: servers whose replicas take over."""

import abc
import time
from urllib.parse import urlsplit

import redis

from tests.servers.redis_server import RedisServer

PASSWORD = "p@ss/word"
ENCODED = "p%40ss%2Fword"
FAILOVER_S = 60  # what a failover may take on a loaded machine; by itself it takes 2 to 3 s


class ReplicatedRedis(abc.ABC):
    """Servers that may be killed, and the `url` that leads gateways to whichever are the masters."""

    url: str
    servers: list[RedisServer]

    def __init__(self, folder) -> None:
        self.folder = folder

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every spelling of the passwords."""
        return PASSWORD, ENCODED

    @abc.abstractmethod
    def start(self) -> None:
        """Start all, and return once any replica could take over."""

    @abc.abstractmethod
    def master_of(self, pool: str) -> RedisServer | None:
        """Find the server that has the line of *pool*; None while nobody has."""

    @abc.abstractmethod
    def fail_over(self, pool: str) -> None:
        """Have the replica of that server take over, as an operator would for a planned change."""

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def scripts_on_master_of(self, pool: str) -> int:
        """Count the scripts that clients have run on the server that has the line of *pool*."""
        server = self.master_of(pool)
        with speaking_to(server) as client:
            return client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)

    def tell_replica_of(self, pool: str) -> None:
        """Return once the replica of that server has all that was written until now."""
        with speaking_to(self.master_of(pool)) as master:
            master.set(f"{{{pool}}}:told", "all")
            self.wait_until(lambda: master.wait(1, 1000) == 1)

    def wait_until(self, is_so) -> None:
        deadline = time.monotonic() + FAILOVER_S
        while not is_so():
            assert time.monotonic() < deadline, f"not within {FAILOVER_S} s; logs are in {self.folder}"
            time.sleep(0.05)

    def _server(self, name: str, *options: str) -> RedisServer:
        folder = self.folder / name
        folder.mkdir(parents=True)
        server = RedisServer(folder, *options, "--requirepass", PASSWORD, "--masterauth", PASSWORD)
        server.url = server.url.replace("//", f"//:{ENCODED}@")
        return server


def port_of(server: RedisServer) -> int:
    port = urlsplit(server.url).port
    assert port, f"{server.url} has no port"
    return port


def speaking_to(server: RedisServer, within_s: float = 30) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=within_s)
