"""Probes are answered while a thousand streams are open, and a revoked key is out within a second."""

import asyncio

import httpx
import pytest

from gateway.serve.wire import ConnectionPool
from tests.chaos.conftest import start_workers
from tests.servers.clients import ask
from tests.waiting import let_run_s

STREAMS = 1000


@pytest.mark.timeout(180)
async def test_probes_answer_while_a_thousand_streams_are_open(installation):
    gateway = installation.add_gateway()
    key = installation.declare()
    slow = ("--max-num-seqs", "1200", "--engine-arg=--inter-token-ms=500")
    start_workers(installation, 1, *slow)
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 40,
        "ignore_eos": True,
        "stream": True,
    }
    connections = ConnectionPool(connect_timeout_s=20, keep_alive_s=30)
    streams = [asyncio.create_task(ask(connections, gateway.url, key, body)) for _ in range(STREAMS)]
    async with httpx.AsyncClient(base_url=gateway.url, timeout=5) as probe:
        open_streams = 0.0
        while open_streams < STREAMS:
            await asyncio.sleep(0.2)
            open_streams = await asyncio.to_thread(gateway.metric, "sluice_in_flight_requests")
            assert not any(stream.done() for stream in streams), "the streams ended before all of them were open"
        for _ in range(20):
            for path in ("/livez", "/readyz"):
                began_s = let_run_s()
                assert (await probe.get(path)).status_code == 200
                assert let_run_s() - began_s < 1, "a kubelet's default probe would have timed out"
    endings = await asyncio.gather(*streams)
    assert all(ending.is_finished for ending in endings)


async def test_a_revoked_key_is_refused_by_every_gateway_within_a_second(installation):
    gateways = [installation.add_gateway(), installation.add_gateway(own_home=True)]
    installation.declare()
    key = installation.sluice_json("keys", "create", "--tenant", "acme", "--name", "doomed")
    headers = {"authorization": f"Bearer {key['key']}"}
    for gateway in gateways:
        gateway.wait_until(
            "aware", lambda g=gateway: httpx.get(f"{g.url}/v1/models", headers=headers).status_code == 200, 5
        )
    installation.sluice("keys", "revoke", key["id"])
    revoked_s = let_run_s()
    for gateway in gateways:
        gateway.wait_until(
            "strict", lambda g=gateway: httpx.get(f"{g.url}/v1/models", headers=headers).status_code == 401, 1
        )
    assert let_run_s() - revoked_s <= 1
