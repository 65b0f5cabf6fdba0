"""A gateway follows a Redis with replicas, behind Sentinel or in a cluster: its server died, hangs or stepped back."""

import asyncio

import pytest

from gateway.ports.queue import Occupancy
from gateway.serve.wire import ConnectionPool
from tests.conformance.queues import POOL, enter_in_order, queues_over, ticket, until
from tests.jobs.conftest import client_of
from tests.path.conftest import start_path
from tests.path.waiting_clients import STREAM, busy, until_waiting, waits
from tests.servers.replicated_redis import FAILOVER_S
from tests.servers.sim_engines import start_sim
from tests.waiting import until as until_so
from workers.engines.sim_batch import Pace

__all__ = ["start_path", "start_sim"]

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]

PATHS_POOL = "tiny"
ENGINE = {"pace": Pace(prefill_tokens_per_s=1e6, inter_token_s=0.1)}
ANSWER_S = 5  # for a Redis that is well, on a loaded machine


@pytest.fixture
def connections():
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield connections
    connections.close()


async def test_requests_that_run_and_wait_outlive_the_death_of_the_master(replicated, start_path, connections):
    async with (
        start_path(count=1, engine=ENGINE, redis_url=replicated.url) as path,
        busy(path, connections) as running,
    ):
        clients = [waits(path, STREAM | {"max_tokens": 5}) for _ in range(3)]
        await until_waiting(path, 3)
        master = await asyncio.to_thread(replicated.master_of, PATHS_POOL)
        master.kill()
        queue = path.gateway._admission.queues[PATHS_POOL]
        await until_degraded(queue, True)
        await until_degraded(queue, False)
        assert await asyncio.to_thread(replicated.master_of, PATHS_POOL) is not master
        assert "[1 in flight, 3 waiting, shared]" in repr(queue), "who ran runs, and who waited waits"
        assert await queue.occupancy() == Occupancy(in_flight=1, waiting=3, slots=1), "as the new master knows"
        running.cancel()
        await asyncio.gather(*(client.done for client in clients))
        assert [(one.status, one.body.endswith(b"data: [DONE]\n\n")) for one in clients] == [(200, True)] * 3
        await until_so(lambda: path.gateway._holds.is_up, FAILOVER_S)
        outcomes = [event["outcome"] for event in (await path.events()).values()]
        assert sorted(outcomes) == ["client_gone", "completed", "completed", "completed"]


async def test_jobs_that_wait_are_run_when_another_master_took_over(replicated, start_path, connections):
    async with (
        start_path(count=1, engine=ENGINE, redis_url=replicated.url) as path,
        client_of(path.url, path.key) as jobs,
    ):
        async with busy(path, connections):
            tickets = [await jobs.ticket(STREAM | {"stream": False, "max_tokens": 5}) for _ in range(3)]
            await asyncio.to_thread(replicated.tell_replica_of, PATHS_POOL)
            await asyncio.to_thread(replicated.master_of(PATHS_POOL).kill)
            queue = path.gateway._admission.queues[PATHS_POOL]
            await until_degraded(queue, True)
            await until_degraded(queue, False)
        for each in tickets:
            await until(lambda each=each: is_completed(jobs, each), FAILOVER_S)


async def test_a_planned_failover_keeps_the_line_in_its_order(replicated):
    async with queues_over(replicated.url, "fallback", store_timeout_s=ANSWER_S) as make:
        queue, log = await make(slots=1), asyncio.Queue()
        visitors = await enter_in_order(queue, [ticket(f"t{n}") for n in range(6)], log)
        master = await asyncio.to_thread(replicated.master_of, POOL)
        await asyncio.to_thread(replicated.fail_over, POOL)
        await until_another(replicated, master)
        await until_known(queue, replicated, Occupancy(in_flight=1, waiting=5, slots=1))
        for visitor in visitors:
            await visitor.leave()
        assert [log.get_nowait() for _ in visitors] == [f"t{n}" for n in range(6)]


async def test_a_master_that_hangs_is_left_for_the_one_that_took_over(replicated):
    async with queues_over(replicated.url, "fallback") as make:
        queue = await make(slots=2)
        async with queue.slot(ticket("a")):
            master = await asyncio.to_thread(replicated.master_of, POOL)
            with master.frozen():
                await until_another(replicated, master)
                await until_known(queue, replicated, Occupancy(in_flight=1, waiting=0, slots=2))
            await until_known(queue, replicated, Occupancy(in_flight=1, waiting=0, slots=2))


async def is_completed(jobs, ticket) -> bool:
    """Ask for a job as a client does that is told to come again while there is no master."""
    answer = await jobs.http.get(ticket["status_url"])
    assert answer.status_code in (200, 503), answer.text
    return answer.status_code == 200 and answer.json()["status"] == "completed"


async def until_degraded(queue, expected: bool) -> None:
    async def is_so() -> bool:
        return queue.is_degraded is expected

    await until(is_so, FAILOVER_S)


async def until_another(replicated, master) -> None:
    """Return once another server than *master* has the line of POOL."""
    await asyncio.to_thread(replicated.wait_until, lambda: replicated.master_of(POOL) not in (None, master))


async def until_known(queue, replicated, occupancy) -> None:
    """Return once *queue* is shared and of *occupancy*, and speaks to the server that has its line."""

    async def is_so() -> bool:
        calls = await asyncio.to_thread(replicated.scripts_on_master_of, POOL)
        is_right = await queue.occupancy() == occupancy and not queue.is_degraded
        return is_right and await asyncio.to_thread(replicated.scripts_on_master_of, POOL) > calls

    await until(is_so, FAILOVER_S)
