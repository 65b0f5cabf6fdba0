"""
A gateway on a host of its own, and the networks between it and the rest: each is cut in turn, without a word.

Another gateway, which sees everything, shares its workers, its Redis and its database throughout.
"""

import asyncio
from urllib.parse import urlsplit, urlunsplit

import pytest

from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, ask, keep_asking
from tests.servers.installation import GatewayServer, Installation
from tests.servers.networks import Host, relay

pytestmark = [pytest.mark.network, pytest.mark.postgres, pytest.mark.redis, pytest.mark.timeout(240)]

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "ignore_eos": True}
SIM = ("--max-num-seqs", "16", "--engine-arg=--inter-token-ms=10", "--host", "0.0.0.0")


def at(url: str, address: str, port: int) -> str:
    """Give *url* with another host and port."""
    parts = urlsplit(url)
    who = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{who}@{address}:{port}" if who else f"{address}:{port}"))


class Site:
    """A gateway on a host of its own, with a network each to clients and one worker, another worker, Redis, and SQL."""

    def __init__(self, folder, redis_url, database_url, stack) -> None:
        self.host = Host()
        self.clients, self.worker_2, self.redis, self.database = (self.host.cable() for _ in range(4))
        local = Installation(folder, redis_url=redis_url, database_url=database_url, SLUICE_HOST="0.0.0.0")
        self.installation = local
        self.near = local.add_gateway()
        redis_port = stack.enter_context(relay(self.redis.here, urlsplit(redis_url).port))
        database_port = stack.enter_context(relay(self.database.here, urlsplit(database_url).port))
        there = {
            "SLUICE_REDIS_URL": at(redis_url, self.redis.here, redis_port),
            "SLUICE_DATABASE_URL": at(database_url, self.database.here, database_port),
        }
        self.far = GatewayServer("gateway-2", folder / "gateway-2", local.environ | there)
        self.far.argv = [*self.host.prefix, *self.far.argv]
        self.far.url = f"http://{self.clients.there}:{self.far.port}"
        self.far.start()
        local.gateways.append(self.far)
        self.key = local.declare()
        for cable in (self.clients, self.worker_2):
            worker = local.add_worker("sim", *SIM, "--advertise-host", cable.here)
            worker.wait_ready(60)

    def close(self) -> None:
        self.installation.close()
        self.host.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory, redis_server, postgres_server):
    from contextlib import ExitStack

    with ExitStack() as stack:
        database_url = postgres_server.new_database("networks")
        site = Site(tmp_path_factory.mktemp("networks") / "home", redis_server.url, database_url, stack)
        stack.callback(site.close)
        yield site


async def become(gateway, what, is_so, within_s=30):
    await asyncio.to_thread(gateway.wait_until, what, is_so, within_s)


async def serves(site, count=5) -> None:
    """Check that the far gateway answers."""
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
    for _ in range(count):
        assert (await ask(connections, site.far.url, site.key, BODY)).is_finished
    connections.close()


async def test_a_gateway_cut_off_from_redis_goes_on_alone_and_comes_back(site):
    site.redis.cut()
    try:
        await serves(site)
        await become(site.far, "aware of it", lambda: "redis" in site.far.readyz()["degraded"])
        assert await asyncio.to_thread(site.far.metric, "sluice_redis_up") == 0
        assert site.far.readyz()["ready"]
        assert "redis" not in site.near.readyz()["degraded"]
        await serves(site)
    finally:
        site.redis.mend()
    await become(site.far, "back on Redis", lambda: site.far.metric("sluice_redis_up") == 1)


async def test_a_gateway_cut_off_from_the_database_keeps_usage_and_ships_it_once(site):
    await asyncio.to_thread(site.installation.wait_shipped, 30)  # what others asked
    before = set(site.installation.events())
    stop = asyncio.Event()
    site.database.cut()
    try:
        load = asyncio.create_task(keep_asking(lambda: site.far.url, site.key, clients=2, stop=stop, seed=6))
        await become(site.far, "aware of it", lambda: "database" in site.far.readyz()["degraded"])
        assert await asyncio.to_thread(site.far.metric, "sluice_database_up") == 0
        assert site.far.readyz()["ready"]
        assert await asyncio.to_thread(site.far.metric, "sluice_spool_backlog_events") > 0
        stop.set()
        endings = await load
    finally:
        site.database.mend()
    assert all(ending.is_finished for ending in endings)
    await become(site.far, "back on the database", lambda: site.far.metric("sluice_database_up") == 1, 60)
    await asyncio.to_thread(site.installation.wait_shipped, 30)
    events = site.installation.events()
    assert set(events) - before == {ending.request_id for ending in endings}
    for ending in endings:
        assert events[ending.request_id]["completion_tokens"] == ending.usage.completion


async def test_a_gateway_cut_off_from_a_worker_serves_by_the_others_and_lets_no_request_hang(site):
    """Others still hear of the worker, and say so: only this gateway's own experience tells it better."""
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
    long = BODY | {"max_tokens": 700, "stream": True, "stream_options": COUNTED}
    watched = []
    streams = [asyncio.create_task(ask(connections, site.far.url, site.key, long, watched)) for _ in range(8)]
    async with asyncio.timeout(30):
        while not sum(ending.worker == "worker-2" and ending.is_begun_stream for ending in watched):
            await asyncio.sleep(0.05)
    site.worker_2.cut()
    try:
        await serves(site)
        async with asyncio.timeout(60):  # a stream of 7 s, and 9 s until silence is known for what it is
            await asyncio.gather(*streams)
    finally:
        site.worker_2.mend()
    assert not [ending.body[-200:] for ending in watched if not (ending.is_finished or ending.has_error_event)]
    assert all(ending.is_finished for ending in watched if ending.worker == "worker-1")
    assert await asyncio.to_thread(site.far.metric, "sluice_worker_failures_total", worker="worker-2") > 0
    assert '"worker_failed"' in site.far.log.read_text()
    await become(site.far, "at peace with it", lambda: site.far.ready_workers() == ["worker-1", "worker-2"])
