"""
What the line in Redis costs: calls and CPU per request, and how many grants one Redis gives.

Three gateways' queues, a process each, no gateway around them. *Uncontended*: 60 requests/s at each, room for all; the
CPU is that of requests one after the other on credit. *Contended*: 60 slots of one second for 600 users who come again
at once, so that nearly all of them wait; the looks at the line are part of it. *Grants*: the same with slots of no
time, as fast as three processes on this machine can ask. Calls are counted by Redis; CPU is the operating system's
account of the processes, Redis's own included, which tells what one Redis with a core to itself could grant.
"""

import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import redis

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import Ticket
from gateway.stores.redis import RedisQueue
from gateway.stores.redis_client import connect
from tests.servers.redis_server import RedisServer

RUNS = 3
GATEWAYS = 3
WARM_UP_S, SECONDS = 1.5, 4.0
ON_CREDIT = 20_000
OCCUPANCY_S = 1.0  # as a gateway asks for it


@dataclass(frozen=True)
class Scenario:
    """What each gateway does: *users* come every *pause_s* and stay for *service_s*; *slots* are for all gateways."""

    slots: int
    users: int
    service_s: float
    pause_s: float = 0.0


UNCONTENDED = Scenario(slots=256, users=30, service_s=0.25, pause_s=0.25)
CONTENDED = Scenario(slots=60, users=200, service_s=1.0)
GRANTS = Scenario(slots=60, users=200, service_s=0.0)


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives medians over RUNS runs, with the spread of each."""
    server = RedisServer(folder)
    server.start()
    try:
        runs = [_one_run(server.url) for _ in range(RUNS)]
    finally:
        server.kill()
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


def _one_run(url: str) -> dict[str, float]:
    free, busy, fast = (asyncio.run(_play(url, scenario)) for scenario in (UNCONTENDED, CONTENDED, GRANTS))
    return {
        "calls_per_uncontended_request": free["calls"] / free["requests"],
        "calls_per_contended_request": busy["calls"] / busy["requests"],
        "cpu_us_per_uncontended_request": 1e6 * asyncio.run(_cpu_s_on_credit(url)),
        "cpu_us_per_contended_request": 1e6 * fast["cpu_s"] / fast["requests"],
        "grants_per_s": fast["requests"] / SECONDS,
        "redis_cpu_us_per_grant": 1e6 * fast["redis_s"] / fast["requests"],
    }


async def _play(url: str, scenario: Scenario) -> dict[str, float]:
    """Have all gateways play *scenario* for SECONDS; sum up what they did, and what Redis did meanwhile."""
    words = [sys.executable, "-m", "tests.bench.queue", url, json.dumps(asdict(scenario))]
    gateways = [await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE) for _ in range(GATEWAYS)]
    with redis.Redis.from_url(url) as client:
        for gateway in gateways:
            await gateway.stdout.readline()  # it is warm
        before = _redis_did(client)
        told = [json.loads(await gateway.stdout.readline()) for gateway in gateways]
        after = _redis_did(client)
    await asyncio.gather(*(gateway.wait() for gateway in gateways))
    summed = {name: sum(one[name] for one in told) for name in told[0]}
    return summed | {name: after[name] - before[name] for name in after}


def _redis_did(client: redis.Redis) -> dict[str, float]:
    stats, cpu = client.info("commandstats"), client.info("cpu")
    calls = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval", "blpop"))
    return {"calls": calls, "redis_s": cpu["used_cpu_user"] + cpu["used_cpu_sys"]}


async def _cpu_s_on_credit(url: str) -> float:
    """Measure the CPU time of one request that has its slot on credit."""
    client = connect(url)
    queue = RedisQueue(client, "bench", owner="alone")
    queue.set_slots(UNCONTENDED.slots)
    await queue.start()
    began_s = time.process_time()
    for n in range(ON_CREDIT):
        async with queue.slot(Ticket(id=f"t{n}", tenant="acme", service_class=ServiceClass.STANDARD)):
            pass
    took_s = time.process_time() - began_s
    await queue.aclose()
    await client.aclose()
    return took_s / ON_CREDIT


async def _be_gateway(url: str, scenario: Scenario) -> None:
    """Play; print a line when warm, and at the end what was done since."""
    client, names, served = connect(url), count(), 0
    queue = RedisQueue(client, "bench", owner=f"gateway-{time.time_ns()}", store_timeout_s=5.0)
    queue.set_slots(scenario.slots)
    await queue.start()

    async def use(user: int) -> None:
        nonlocal served
        await asyncio.sleep(scenario.pause_s * user / scenario.users)
        while True:
            one = Ticket(
                id=f"{queue._line.owner}-{next(names)}",
                tenant=f"tenant-{user % 20}",
                user=f"user-{user}",
                service_class=ServiceClass(user % 3),
                work=100,
            )
            async with queue.slot(one, lambda: 120):
                await asyncio.sleep(scenario.service_s)
            served += 1
            await asyncio.sleep(scenario.pause_s)

    async def ask() -> None:
        while True:
            await asyncio.sleep(OCCUPANCY_S)
            await queue.occupancy()

    tasks = [asyncio.create_task(use(user)) for user in range(scenario.users)] + [asyncio.create_task(ask())]
    await asyncio.sleep(WARM_UP_S)
    print("warm", flush=True)
    served_before, cpu_before_s = served, time.process_time()
    await asyncio.sleep(SECONDS)
    figures = {"requests": served - served_before, "cpu_s": time.process_time() - cpu_before_s}
    print(json.dumps(figures), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await queue.aclose()
    await client.aclose()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_be_gateway(sys.argv[1], Scenario(**json.loads(sys.argv[2]))))
