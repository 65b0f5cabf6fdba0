"""A stream whose first token is late is asked of a second worker too, answered once and billed once."""

import asyncio
import time
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.core.hedging import SAMPLES_MIN
from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, ask
from tests.servers.scripted_engine import accept_only, hung_engine, say_head_only
from tests.waiting import until

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True}
STREAM = BODY | {"stream": True, "stream_options": COUNTED}
HEDGED = {"hedge_share": 0.2, "hedge_after_s_min": 0.1}


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


@asynccontextmanager
async def stuck_path(start_path, how, upstream):
    """A path whose first worker is asked first and never says a token, in a pool whose TTFTs are known."""
    async with hung_engine(how) as (url, held), start_path(upstream=upstream) as path:
        await path.beat(0, url=url)
        await path.beat(1, running=5)
        for _ in range(SAMPLES_MIN):
            path.gateway._hedges.learn("tiny", 0.05, 0.05)
        yield path, held


async def only_event(path):
    [event] = (await path.events()).values()
    return event


@pytest.mark.parametrize("how", [accept_only, say_head_only])
async def test_a_stream_that_is_stuck_is_answered_by_a_second_worker_and_billed_once(start_path, connections, how):
    async with stuck_path(start_path, how, HEDGED) as (path, held):
        ending = await ask(connections, path.url, path.key, STREAM)
        event = await only_event(path)
        await until(lambda: not held)  # the stuck engine was hung up on
        await until(lambda: not any(view.in_flight for view in path.views))
        metrics = (await _metrics(path)).text
    assert ending.is_finished
    assert (event["attempts"], event["worker"], event["flag"], event["outcome"]) == (2, "w1", "exact", "completed")
    assert event["completion_tokens"] == ending.usage.completion == 20
    assert event["prompt_tokens"] == ending.usage.prompt
    assert 'sluice_hedges_won_total{pool="tiny"} 1.0' in metrics


async def _metrics(path):
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"{path.url}/metrics")


async def test_the_first_worker_that_answers_after_all_is_taken_and_the_second_one_stopped(start_path, connections):
    async with stuck_path(start_path, accept_only, HEDGED) as (path, _), hung_engine(say_head_only) as (url, held):
        await path.beat(0, url=path.engines[0].url)
        await path.engines[0].fault(is_stalled=True)
        await path.beat(1, url=url, running=5)
        asking = asyncio.create_task(ask(connections, path.url, path.key, STREAM))
        await until(lambda: held)
        await path.engines[0].fault(is_stalled=False)
        ending = await asking
        event = await only_event(path)
        await until(lambda: not held)
        lost = dict(path.gateway._hedges.lost)
    assert ending.is_finished
    assert (event["attempts"], event["worker"], event["completion_tokens"]) == (2, "w0", 20)
    assert lost == {"tiny": 1}


async def test_a_client_that_leaves_during_a_hedge_stops_both_workers(start_path, connections):
    async with (
        hung_engine(accept_only) as (second, held_by_second),
        stuck_path(start_path, accept_only, HEDGED) as (path, held),
    ):
        await path.beat(1, url=second, running=5)
        asking = asyncio.create_task(ask(connections, path.url, path.key, STREAM))
        await until(lambda: held and held_by_second)
        asking.cancel()
        await until(lambda: not held and not held_by_second)
        await until(lambda: not any(view.in_flight for view in path.views))
        event = await only_event(path)
    assert (event["outcome"], event["attempts"], event["flag"]) == ("client_gone", 2, "none")


async def test_a_worker_that_is_overtaken_again_and_again_is_ejected(start_path, connections):
    upstream = HEDGED | {"hedge_share": 0.5, "suspect_s": 0.01}
    async with stuck_path(start_path, accept_only, upstream) as (path, _):
        async with asyncio.timeout(60):
            while not (worker := {one.worker: one for one in path.gateway._roster.figures()}["w0"]).ejections:
                path.gateway._hedges.note_stream("tiny", time.monotonic())  # so that all of them may be hedged
                assert (await ask(connections, path.url, path.key, STREAM)).is_finished
    assert "it did not begin to answer in time" in worker.reason


async def test_without_being_asked_for_nothing_is_hedged(start_path, connections):
    async with stuck_path(start_path, accept_only, {"header_timeout_s": 0.5}) as (path, _):
        assert (await ask(connections, path.url, path.key, STREAM)).is_finished  # tried elsewhere after the limit
        assert not path.gateway._hedges.won
        assert not path.gateway._hedges.lost


async def test_where_no_other_worker_has_room_a_late_stream_waits_on(start_path, connections):
    async with stuck_path(start_path, accept_only, HEDGED | {"header_timeout_s": 0.8}) as (path, held):
        await path.beat(1, state="draining")
        asking = asyncio.create_task(ask(connections, path.url, path.key, STREAM))
        await until(lambda: held)
        await asyncio.sleep(0.3)  # three times what is late
        assert len(held) == 1
        ending = await asking
        event = await only_event(path)
    assert (ending.status, event["attempts"]) == (504, 1)
