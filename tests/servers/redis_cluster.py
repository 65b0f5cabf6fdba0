"""A Redis Cluster: three masters that share the slots, with a replica each, all real processes with a password."""

import contextlib

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests.servers.redis_server import RedisServer
from tests.servers.replicated_redis import ENCODED, ReplicatedRedis, port_of, speaking_to

MASTERS = 3
_OPTIONS = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes.conf")


class RedisCluster(ReplicatedRedis):
    """Six servers; the first three begin as masters, each of the others as the replica of one of them."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.servers = [self._server(str(number), *_OPTIONS) for number in range(2 * MASTERS)]

    @property
    def url(self) -> str:
        """What goes into `redis_url`: two of the servers, which know the others."""
        hosts = ",".join(f"127.0.0.1:{port_of(server)}" for server in self.servers[1:3])
        return f"redis+cluster://:{ENCODED}@{hosts}"

    def start(self) -> None:
        for server in self.servers:
            server.start()
        for number, server in enumerate(self.servers):
            with speaking_to(server) as client:
                if number < MASTERS:
                    client.execute_command("CLUSTER ADDSLOTS", *_slots_of(number))
                client.execute_command("CLUSTER MEET", "127.0.0.1", port_of(self.servers[0]))
        self.wait_until(lambda: all(self._knows_all(server) for server in self.servers))
        for master, replica in zip(self.servers[:MASTERS], self.servers[MASTERS:], strict=True):
            with speaking_to(master) as left, speaking_to(replica) as right:
                right.execute_command("CLUSTER REPLICATE", left.execute_command("CLUSTER MYID").decode())
        self.wait_until(lambda: all(self._is_ready(server) for server in self.servers))

    def master_of(self, pool: str) -> RedisServer | None:
        slot = key_slot(pool.encode())
        for first, last, master, *_ in self._slots():
            if first <= slot <= last:
                return self._server_at(master)
        return None

    def fail_over(self, pool: str) -> None:
        slot = key_slot(pool.encode())
        (replica,) = (replica for first, last, _, replica in self._slots() if first <= slot <= last)
        with speaking_to(self._server_at(replica)) as client:
            client.execute_command("CLUSTER FAILOVER")

    def _slots(self):
        """Ask a server that is alive and sees all slots served; one that was left behind does not."""
        for server in self.servers:
            with contextlib.suppress(redis.RedisError), speaking_to(server, within_s=2) as client:
                if client.execute_command("CLUSTER INFO")["cluster_state"] == "ok":
                    return client.execute_command("CLUSTER SLOTS")
        return []

    def _server_at(self, address) -> RedisServer:
        return next(server for server in self.servers if port_of(server) == address[1])

    def _knows_all(self, server: RedisServer) -> bool:
        with speaking_to(server) as client:
            said = client.execute_command("CLUSTER INFO")
        return (said["cluster_state"], said["cluster_known_nodes"]) == ("ok", str(len(self.servers)))

    def _is_ready(self, server: RedisServer) -> bool:
        with speaking_to(server) as client:
            replication = client.info("replication")
            if not all(len(told) == 4 for told in client.execute_command("CLUSTER SLOTS")):
                return False  # it has not heard who is whose replica
        is_linked = replication.get("master_link_status") == "up"
        return is_linked if server in self.servers[MASTERS:] else replication["connected_slaves"] == 1


def _slots_of(number: int) -> range:
    return range(number * REDIS_CLUSTER_HASH_SLOTS // MASTERS, (number + 1) * REDIS_CLUSTER_HASH_SLOTS // MASTERS)
