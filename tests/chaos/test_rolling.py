"""A rolling restart of every worker and of every gateway, under load: no request fails, and each is billed once."""

import asyncio

import pytest

from tests.chaos.conftest import SIM, start_workers
from tests.servers.installation import ADMIN_TOKEN, Installation
from tests.servers.sdk_clients import keep_asking_by_sdk


@pytest.fixture
def installation(tmp_path, redis_url):
    installation = Installation(tmp_path / "home", redis_url=redis_url, SLUICE_DRAIN_ANNOUNCE_S="0.5")
    yield installation
    installation.close()


def drain(installation, worker) -> None:
    """Drain a worker as an operator does, by the last gateway to be restarted, and wait until it has ended."""
    gateway = installation.gateways[-1]
    installation.environ |= {"SLUICE_PORT": str(gateway.port), "SLUICE_ADMIN_TOKEN": ADMIN_TOKEN}
    [ended] = installation.sluice_json("worker", "drain", worker.name, "--wait", "--timeout-s", "60")
    assert ended["state"] == "ended"
    assert worker._process.wait(30) == 0


def replace_workers(installation) -> None:
    """Replace the workers one by one, by others that are warm before the first of them drains."""
    old = list(installation.workers)
    new = {installation.add_worker("sim", *SIM).name for _ in old}
    steady = installation.gateways[-1]
    steady.wait_until("told of the new ones", lambda: new <= set(steady.ready_workers()), 60)
    for worker in old:
        drain(installation, worker)


def restart(gateways) -> None:
    """Restart one gateway after the other; the next one goes when the last one serves again."""
    for gateway in gateways:
        assert gateway.stop() == 0
        gateway.start()
        gateway.wait_until("back with its workers", lambda g=gateway: len(g.ready_workers()) >= 2, 30)


@pytest.mark.timeout(240)
async def test_replacing_all_workers_and_restarting_all_gateways_fails_no_request(installation):
    for own_home in (False, True, True):
        installation.add_gateway(own_home=own_home)
    key = installation.declare()
    start_workers(installation, 2)
    stop = asyncio.Event()
    urls = [gateway.url for gateway in installation.gateways]
    load = asyncio.create_task(keep_asking_by_sdk(urls, key, clients=6, stop=stop, seed=5))
    try:
        await asyncio.gather(
            asyncio.to_thread(replace_workers, installation),
            asyncio.to_thread(restart, installation.gateways[:-1]),  # at the same time
        )
        await asyncio.to_thread(restart, installation.gateways[-1:])
    finally:
        stop.set()
        tally = await load

    assert not tally.failures
    assert min(tally.plain, tally.streams) > 50, tally
    await asyncio.to_thread(installation.wait_shipped)
    events = installation.events()
    assert {name: events[name]["completion_tokens"] for name in tally.tokens} == tally.tokens
    assert len(events) == len(tally.tokens)
    assert {event["outcome"] for event in events.values()} == {"completed"}
