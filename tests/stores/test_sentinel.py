"""Redis behind Sentinel: a gateway follows the master, whether it died, hangs, or was told to step back."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
import redis
from redis.asyncio.connection import SSLConnection

from gateway.errors import InvalidInput, StoreUnavailable
from gateway.ports.queue import Occupancy
from gateway.serve.wire import ConnectionPool
from gateway.settings import load_settings
from gateway.stores.redis_client import connect, redis_answering
from tests.conformance.queues import enter_in_order, open_queue, queues_over, ticket, until
from tests.jobs.conftest import client_of
from tests.path.conftest import start_path
from tests.path.waiting_clients import STREAM, busy, until_waiting, waits
from tests.servers.process import free_port
from tests.servers.redis_sentinel import FAILOVER_S, PASSWORD, SENTINEL_PASSWORD, port_of
from tests.servers.sim_engines import start_sim
from tests.waiting import until as until_so
from workers.engines.sim_batch import Pace

__all__ = ["start_path", "start_sim"]

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
ANSWER_S = 5  # for a Redis that is well, on a loaded machine
SET = "return redis.call('SET', KEYS[1], ARGV[1])"
GOOD = (
    "",
    "redis://",
    "redis://:p%2Fq@redis:6379/0",
    "rediss://redis?ssl_ca_certs=/etc/ca.pem",
    "unix:///run/redis.sock?db=0",
    "redis+sentinel://a,b:26380,[::1]:2/mymaster",
    "rediss+sentinel://user:p%40q@a:26379,b/mymaster/3?sentinel_password=x&ssl_ca_certs=/etc/ca.pem",
)
WRONG = {
    "another scheme": "http://redis:6379",
    "two addresses of one Redis": "redis://a:6379,b:6379/0",
    "no name of the master": "redis+sentinel://:hush@a:26379,b:26379",
    "a database that is no number": "redis+sentinel://:hush@a:26379/mymaster/first",
    "an option misspelt": "redis+sentinel://a/mymaster/0?sentinel_pasword=hush",
    "a password as it is": "redis+sentinel://:hu/sh@a/mymaster/0",
    "a port that is no number": "redis://:hush@a:port/0",
    "a port that cannot be": "redis://:hush@a:99999/0",
    "a sentinel's port that cannot be": "redis+sentinel://:hush@a:99999/mymaster",
}


@pytest.mark.parametrize("url", GOOD)
def test_the_forms_of_a_redis_url_are_taken(url):
    assert load_settings({"SLUICE_REDIS_URL": url + "\n"}).redis_url == url


@pytest.mark.parametrize("url", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_redis_url_is_refused_by_name_and_its_password_not_shown(url):
    with pytest.raises(InvalidInput, match=r"^redis_url: must be redis://.*\(in SLUICE_REDIS_URL\)$") as refused:
        load_settings({"SLUICE_REDIS_URL": url})
    assert "hu" not in str(refused.value)


async def test_requests_that_run_and_wait_outlive_the_death_of_the_master(sentinels, start_path):
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    engine = {"pace": Pace(prefill_tokens_per_s=1e6, inter_token_s=0.1)}
    async with start_path(count=1, engine=engine, redis_url=sentinels.url) as path, busy(path, connections) as running:
        clients = [waits(path, STREAM | {"max_tokens": 5}) for _ in range(3)]
        await until_waiting(path, 3)
        master = await asyncio.to_thread(lambda: sentinels.master)
        master.kill()
        queue = path.gateway._admission.queues["tiny"]
        await until_degraded(queue, True)
        await until_degraded(queue, False)
        assert await asyncio.to_thread(lambda: sentinels.master) is not master
        assert "[1 in flight, 3 waiting, shared]" in repr(queue), "who ran runs, and who waited waits"
        assert await queue.occupancy() == Occupancy(in_flight=1, waiting=3, slots=1), "as the new master knows"
        running.cancel()
        await asyncio.gather(*(client.done for client in clients))
        assert [(one.status, one.body.endswith(b"data: [DONE]\n\n")) for one in clients] == [(200, True)] * 3
        await until_so(lambda: path.gateway._holds.is_up, FAILOVER_S)
        outcomes = [event["outcome"] for event in (await path.events()).values()]
        assert sorted(outcomes) == ["client_gone", "completed", "completed", "completed"]
    connections.close()


async def test_jobs_that_wait_are_run_when_another_master_took_over(sentinels, start_path):
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    engine = {"pace": Pace(prefill_tokens_per_s=1e6, inter_token_s=0.1)}
    async with (
        start_path(count=1, engine=engine, redis_url=sentinels.url) as path,
        client_of(path.url, path.key) as jobs,
    ):
        async with busy(path, connections):
            tickets = [await jobs.ticket(STREAM | {"stream": False, "max_tokens": 5}) for _ in range(3)]
            await asyncio.to_thread(sentinels.tell_replica)
            await asyncio.to_thread(sentinels.master.kill)
            queue = path.gateway._admission.queues["tiny"]
            await until_degraded(queue, True)
            await until_degraded(queue, False)
        for each in tickets:
            await jobs.until(each, "completed", within_s=FAILOVER_S)
    connections.close()


async def test_a_planned_failover_keeps_the_line_in_its_order(sentinels):
    async with queues_over(sentinels.url, "fallback", store_timeout_s=ANSWER_S) as make:
        queue, log = await make(slots=1), asyncio.Queue()
        visitors = await enter_in_order(queue, [ticket(f"t{n}") for n in range(6)], log)
        master = await asyncio.to_thread(lambda: sentinels.master)
        await asyncio.to_thread(sentinels.fail_over)
        await asyncio.to_thread(sentinels.wait_until, lambda: sentinels.master is not master)
        await until_known(queue, sentinels, Occupancy(in_flight=1, waiting=5, slots=1))
        for visitor in visitors:
            await visitor.leave()
        assert [log.get_nowait() for _ in visitors] == [f"t{n}" for n in range(6)]


async def test_a_master_that_hangs_is_left_for_the_one_that_took_over(sentinels):
    async with queues_over(sentinels.url, "fallback") as make:
        queue = await make(slots=2)
        async with queue.slot(ticket("a")):
            master = await asyncio.to_thread(lambda: sentinels.master)
            with master.frozen():
                await asyncio.to_thread(sentinels.wait_until, lambda: sentinels.master is not master)
                await until_known(queue, sentinels, Occupancy(in_flight=1, waiting=0, slots=2))
            await until_known(queue, sentinels, Occupancy(in_flight=1, waiting=0, slots=2))


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


async def until_degraded(queue, expected: bool) -> None:
    async def is_so() -> bool:
        return queue.is_degraded is expected

    await until(is_so, FAILOVER_S)


async def until_known(queue, sentinels, occupancy) -> None:
    """Return once *queue* is shared and of *occupancy*, and speaks to the server that the sentinels name."""

    async def is_so() -> bool:
        calls = await asyncio.to_thread(sentinels.scripts_on_master)
        is_right = await queue.occupancy() == occupancy and not queue.is_degraded
        return is_right and await asyncio.to_thread(sentinels.scripts_on_master) > calls

    await until(is_so, FAILOVER_S)


def test_a_backup_asks_for_the_address_of_one_server(tmp_path):
    environ = os.environ | {"SLUICE_REDIS_URL": "redis+sentinel://:hush@a/mymaster/0"}
    command = ["deploy/backup.sh", str(tmp_path), str(tmp_path / "backup")]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)  # noqa: PLW1510  it must fail
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "the address of a replica or of the master" in done.stderr
    assert "hush" not in done.stderr
