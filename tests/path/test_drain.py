"""A gateway that goes: who has its turn in time is served, who has not is sent on with a reason, and nobody is cut."""

import asyncio
import json

import pytest

from gateway.serve.wire import ConnectionPool
from tests.path.waiting_clients import BODY, QUICK, busy, until_waiting, waits
from tests.servers.clients import ask
from tests.waiting import until


@pytest.fixture
async def connections():
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
    yield connections
    connections.close()


async def test_a_drain_that_is_announced_shows_in_readiness_and_serves_on(start_path, connections):
    async with start_path(count=1) as path:
        path.gateway.announce_drain()
        assert not path.gateway._vitals.components()["serving"].is_ok
        assert (await ask(connections, path.url, path.key, BODY)).is_finished


async def test_who_has_its_turn_in_time_is_served_during_the_drain(start_path, connections):
    async with start_path(count=1) as path, busy(path, connections, tokens=300):
        clients = [waits(path, BODY), waits(path)]
        await until_waiting(path, 2)
        path.gateway.begin_drain()
        await asyncio.gather(*(client.done for client in clients))
    assert [client.status for client in clients] == [200, 200]
    assert clients[1].body.endswith(b"data: [DONE]\n\n")


async def test_what_comes_on_an_open_connection_is_served_if_there_is_room(start_path, connections):
    async with start_path(count=1) as path:
        path.gateway.begin_drain()
        assert (await ask(connections, path.url, path.key, BODY)).is_finished


async def test_whose_turn_does_not_come_is_sent_to_another_gateway_before_the_drain_ends(start_path, connections):
    async with start_path(count=1, drain_s=2, queue=QUICK) as path, busy(path, connections):
        plain, stream = waits(path, BODY), waits(path)
        await until_waiting(path, 2)
        await until(lambda: stream.body)  # it has its headers, and a first word of its wait
        path.gateway.begin_drain()
        late = waits(path, BODY)
        await asyncio.gather(*(client.done for client in (plain, stream, late)))
        for client in (plain, late):
            assert client.status == 503
            assert (client.headers["retry-after"], client.headers["x-should-retry"]) == ("1", "true")
            assert json.loads(client.body)["error"]["code"] == "draining"
        assert b'data: {"error": {"message": "This gateway is shutting down' in stream.body
        assert stream.body.count(b'"draining"') == 1
        assert len(path.gateway._admission._returns) == 2, "two of them are alike: who comes again has its age"
        assert "0 waiting" in path.queue
        events = await path.events()
        assert sorted(event["outcome"] for event in events.values()) == ["draining"] * 3


async def test_who_is_known_to_wait_in_vain_is_not_kept(start_path, connections):
    """Its turn is expected after the drain: it goes at once, while another gateway can still make use of the time."""
    async with start_path(count=1, drain_s=3600) as path, busy(path, connections):
        client = waits(path, BODY)
        await until_waiting(path, 1)
        drain = path.gateway._admission.drain
        assert not drain.is_in_vain(None, 0.0)
        path.gateway.begin_drain()
        line = path.gateway._admission._lines["tiny"]
        line.send_away(lambda place: drain.is_in_vain(1801.0, asyncio.get_running_loop().time()))
        await client.done
    assert client.status == 503


async def test_a_request_for_a_pool_without_a_worker_does_not_outlast_the_drain(start_path):
    async with start_path(count=0, drain_s=1) as path:
        client = waits(path, BODY)
        await until(lambda: path.gateway._admission._waiting)
        path.gateway.begin_drain()
        await client.done
    assert (client.status, json.loads(client.body)["error"]["code"]) == (503, "draining")
