"""Redis behind Sentinel: what is asked of the sentinels, and what is made of what they and their servers say."""

import asyncio

import pytest
import redis
from redis.asyncio.connection import SSLConnection

from gateway.errors import StoreUnavailable
from gateway.stores.redis_client import connect, redis_answering
from tests.conformance.queues import open_queue
from tests.servers.process import free_port
from tests.servers.redis_sentinel import SENTINEL_PASSWORD
from tests.servers.replicated_redis import PASSWORD, port_of
from tests.stores.test_redis_failover import ANSWER_S, until_degraded

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]

SET = "return redis.call('SET', KEYS[1], ARGV[1])"


@pytest.mark.parametrize("refusal", ["READONLY", "NOREPLICAS"])
async def test_a_server_that_may_not_write_is_left_though_its_connections_are_whole(sentinels, refusal):
    """Sentinel itself cuts the connections of a master that it deposes; it cannot where the network is cut."""
    old, new = sentinels.servers
    async with connect(sentinels.url) as client:
        await client.eval(SET, 1, "key", "before")
        await asyncio.to_thread(sentinels.watch_instead, new)
        with redis.Redis.from_url(new.url) as left, redis.Redis.from_url(old.url) as right:
            left.replicaof("NO", "ONE")
            if refusal == "READONLY":
                right.replicaof("127.0.0.1", port_of(new))
            else:
                right.config_set("min-replicas-to-write", 1)
            with pytest.raises(StoreUnavailable, match=refusal):
                await asked(client.eval(SET, 1, "key", "x"))
            await asked(client.eval(SET, 1, "key", "after"))
            assert left.get("key") == b"after"


async def test_sentinels_that_are_dead_or_hang_are_passed_over(sentinels):
    sentinels.sentinels[0].freeze_tree()
    sentinels.sentinels[1].kill()
    async with open_queue("fallback", sentinels.url, slots=1) as queue:
        await until_degraded(queue, False)


async def test_what_is_shown_of_the_client_and_its_troubles_has_no_password(sentinels):
    url = sentinels.url.replace("sentinel_password=s", "sentinel_password=x")
    async with connect(url) as client:
        with pytest.raises(StoreUnavailable) as refused:
            await asked(client.ping())
    shown = repr(client) + repr(client.connection_pool.sentinel_manager) + str(refused.value)
    assert "none of 3 sentinels names a running master 'mymaster'" in shown
    assert not [secret for secret in (PASSWORD, SENTINEL_PASSWORD[1:], "%40") if secret in shown]


async def test_with_tls_it_goes_to_the_sentinels_and_to_the_master():
    url = f"rediss+sentinel://localhost:{free_port()}/mymaster/2?ssl_ca_certs=/ca.pem&sentinel_username=u"
    async with connect(url) as client:
        (asked,) = client.connection_pool.sentinel_manager.sentinels
        for pool in (client.connection_pool, asked.connection_pool):
            assert issubclass(pool.connection_class, SSLConnection)
            assert pool.connection_kwargs["ssl_ca_certs"] == "/ca.pem"
        assert (client.get_connection_kwargs()["db"], asked.get_connection_kwargs()["username"]) == (2, "u")


async def asked(call) -> None:
    async with redis_answering(ANSWER_S):
        await call
