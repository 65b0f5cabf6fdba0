"""A gateway's books against its engine's own counters, with requests under way while the counters are read."""

import asyncio
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from gateway.composition import now_ms
from gateway.finance.reconcile import reconcile
from gateway.ports.journal import EngineReading
from gateway.serve.wire import ConnectionPool
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_work import SqlWork
from tests.servers.clients import COUNTED, ask
from tests.waiting import until
from workers.engines.sim_batch import Pace
from workers.engines.vllm import scrape

UTC = ZoneInfo("UTC")
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 300, "ignore_eos": True}
STREAM = BODY | {"stream": True, "stream_options": COUNTED}


class Books:
    """A gateway over one engine, with a client, and readings of the engine as its agent would send them."""

    def __init__(self, path, connections):
        self.path, self._connections = path, connections
        self.engine = path.engines[0]
        self.began_ms = now_ms()

    def start(self, body):
        return asyncio.create_task(ask(self._connections, self.path.url, self.path.key, body))

    async def counters(self):
        return scrape((await self.engine.http.get("/metrics")).text)

    async def read(self):
        """Read the engine's counters into the Journal; gives the moment."""
        counters, at_ms = await self.counters(), now_ms()
        reading = EngineReading(
            worker="w0",
            pool="tiny",
            started_ms=self.began_ms,
            read_ms=at_ms,
            prompt_tokens=counters.prompt_tokens_total,
            completion_tokens=counters.generation_tokens_total,
            probe_prompt_tokens=0,
            probe_completion_tokens=0,
        )
        await asyncio.to_thread(SqlJournal(self.path.gateway._database).append_readings, [reading])
        return at_ms

    async def lines(self, *bounds):
        """Reconcile the windows between *bounds*, once all events are in the Journal."""
        await self.path.events()
        work = SqlWork(self.path.gateway._database)
        found = [reconcile(work, start, end, UTC) for start, end in pairwise(bounds)]
        return [line for result in found for line in result.lines]


@pytest.fixture
async def books(start_path):
    connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    async with start_path(count=1, engine={"pace": Pace(prefill_tokens_per_s=1e6, inter_token_s=0.01)}) as path:
        yield Books(path, connections)
    connections.close()


async def test_with_several_choices_nothing_is_left_to_explain(books):
    for body in (BODY | {"n": 3}, STREAM | {"n": 2}, BODY):
        assert (await books.start(body)).is_finished
    [line] = await books.lines(0, await books.read() + 1)
    assert line.residue_prompt_tokens == line.choices_prompt_tokens > 0
    assert (line.unexplained_prompt_tokens, line.unexplained_completion_tokens) == (0, 0)


async def test_requests_under_way_while_counters_are_read_are_explained_in_both_windows(books):
    """
    Eight streams, read in their middle. What is left unexplained is how unevenly their tokens came, and little else.

    On a machine that stands still for a moment tokens come unevenly; how much is taken from the test's own clock.
    """
    asking = [books.start(STREAM) for _ in range(8)]
    counters = books.engine.engine.batch.counters
    await until(lambda: counters.generation_tokens > 0)
    began_ms = now_ms()
    await until(lambda: counters.generation_tokens > 1000)
    middle_ms = await books.read() + 1
    assert all(ending.is_finished for ending in await asyncio.gather(*asking))
    ended_ms = now_ms()
    first, second = await books.lines(0, middle_ms, await books.read() + 1)
    assert first.requests == 0
    assert first.residue_completion_tokens > 1000
    assert first.unexplained_prompt_tokens == second.unexplained_prompt_tokens == 0
    evenly = counters.generation_tokens * (middle_ms - began_ms) / (ended_ms - began_ms)
    unevenly = first.residue_completion_tokens - evenly
    assert abs(first.unexplained_completion_tokens - unevenly) < 0.1 * first.residue_completion_tokens
    assert first.unexplained_completion_tokens + second.unexplained_completion_tokens == 0


async def test_what_an_engine_did_for_those_who_left_is_left_and_their_number_is_told(books):
    asking = [books.start(STREAM), books.start(BODY)]
    await until(lambda: books.engine.engine.batch.counters.generation_tokens > 100)
    for task in asking:
        task.cancel()
    await until(lambda: not books.engine.engine.batch.running)
    await until(lambda: not books.path.views[0].in_flight)
    [line] = await books.lines(0, await books.read() + 1)
    [entry] = [entry for entry in await books.engine.journal() if entry["completion_tokens"] > 0][-1:]
    assert (line.cut_requests, line.unanswered_requests) == (1, 1)
    assert line.unexplained_prompt_tokens == entry["prompt_tokens"]
    assert 0 < line.unexplained_completion_tokens < 300
