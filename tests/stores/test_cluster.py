"""Redis Cluster: each call goes to the server that has its keys, wherever those are moved to."""

import asyncio

import pytest
from redis.asyncio.connection import SSLConnection

from gateway.errors import StoreUnavailable
from gateway.stores.redis_client import connect, redis_answering
from tests.conformance.queues import enter_in_order, handed_on, queues_over, ticket
from tests.jobs.conftest import client_of
from tests.path.conftest import start_path
from tests.path.waiting_clients import STREAM
from tests.servers.process import free_port
from tests.servers.redis_cluster import MASTERS
from tests.servers.replicated_redis import speaking_to
from tests.servers.sim_engines import start_sim
from tests.stores.test_redis_failover import ANSWER_S

__all__ = ["start_path", "start_sim"]

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]


async def test_two_gateways_share_one_line(cluster):
    async with queues_over(cluster.url) as make:
        left, right, log = await make(slots=1), await make(slots=1), asyncio.Queue()
        visitors = []
        for number in range(8):
            visitors += await enter_in_order((left, right)[number % 2], [ticket(f"t{number}")], log)
        assert await handed_on(log, visitors) == [f"t{number}" for number in range(8)]


async def test_all_that_a_gateway_keeps_in_redis_finds_its_server(cluster, start_path):
    """Line, roster, holds, returns, demand and jobs have keys of their own, and not all on one server."""
    async with (
        start_path(count=1, redis_url=cluster.url) as path,
        client_of(path.url, path.key) as jobs,
    ):
        ticket = await jobs.ticket(STREAM | {"stream": False, "max_tokens": 5})
        await jobs.until(ticket, "completed", within_s=ANSWER_S)
        assert path.gateway._holds.is_up
        keys = [set(_keys(server)) for server in cluster.servers[:MASTERS]]
    assert sum(map(bool, keys)) > 1
    kinds = {key.split(b":")[1] for found in keys for key in found}
    assert kinds >= {b"{tiny}", b"{roster}", b"holds", b"job"}


async def test_a_line_is_followed_to_the_server_it_is_moved_to(cluster):
    async with connect(cluster.url) as client:
        await client.set("{qwen}:key", "here")
        master = await asyncio.to_thread(cluster.master_of, "qwen")
        await asyncio.to_thread(cluster.fail_over, "qwen")
        await asyncio.to_thread(cluster.wait_until, lambda: cluster.master_of("qwen") not in (None, master))
        async with redis_answering(ANSWER_S):
            assert await client.get("{qwen}:key") == "here"


async def test_what_is_shown_of_the_client_and_its_troubles_has_no_password():
    url = f"redis+cluster://:hush@127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    client = connect(url)
    with pytest.raises(StoreUnavailable, match="Redis Cluster cannot be connected") as refused:
        async with redis_answering(ANSWER_S):
            await client.get("key")
    assert "hush" not in repr(client) + repr(client.startup_nodes) + str(refused.value)
    await client.aclose()


async def test_with_tls_it_goes_to_all_servers():
    url = f"rediss+cluster://user:p%40q@127.0.0.1:{free_port()}/0?ssl_ca_certs=/ca.pem&max_connections=7"
    client = connect(url)
    (node,) = client.startup_nodes
    assert issubclass(node.connection_class, SSLConnection)
    told = node.connection_kwargs
    assert (told["ssl_ca_certs"], told["username"], told["password"]) == ("/ca.pem", "user", "p@q")
    assert node.max_connections == 7
    await client.aclose()


def _keys(server):
    with speaking_to(server) as client:
        return client.keys()
