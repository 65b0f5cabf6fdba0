"""`kill -9` of a worker under load, and its start under the same name: who notices, and when it serves again."""

import asyncio
from collections import Counter

import pytest

from tests.chaos.conftest import start_workers
from tests.servers.clients import keep_asking
from tests.waiting import until


@pytest.mark.timeout(180)
async def test_a_worker_that_is_killed_and_started_again_costs_nobody_an_error_before_the_first_byte(installation):
    gateway = installation.add_gateway()
    key = installation.declare()
    start_workers(installation, 2)
    victim, stop, watched = installation.workers[0], asyncio.Event(), []
    load = asyncio.create_task(
        keep_asking(lambda: gateway.url, key, clients=16, stop=stop, seed=7, tokens=(20, 60), watched=watched)
    )
    await until(lambda: len(served_by(victim, watched)) > 20, within_s=60)
    await asyncio.to_thread(victim.kill_tree)
    before = len(watched)
    await asyncio.to_thread(victim.spawn)
    await asyncio.to_thread(victim.wait_ready, 60)
    await until(lambda: len(served_by(victim, watched[before:])) > 20, within_s=60)
    stop.set()
    endings = await load

    outcomes = Counter(event["outcome"] for event in (await shipped(installation)).values())
    assert [(ending.status, ending.body[-300:]) for ending in endings if ending.status != 200] == [], outcomes
    assert [health["health"] for health in gateway.workers()] == ["trusted", "trusted"]
    assert gateway.metric("sluice_retries_refused_total") == 0


def served_by(worker, endings):
    return [ending for ending in endings if ending.worker == worker.name and ending.is_finished]


async def shipped(installation):
    await asyncio.to_thread(installation.wait_shipped)
    return installation.events()
