"""Late binding on the whole path: a request reaches an engine only when that worker has credit for it."""

import asyncio
from contextlib import ExitStack

import pytest

from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, ask
from tests.waiting import until
from workers.engines.sim_batch import Pace

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True}
STREAM = BODY | {"stream": True, "stream_options": COUNTED}


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


def prefilling(path, worker: str):
    """Take all prefill room of *worker*, as a very long prompt does."""
    return path.gateway._roster.working(worker, 0, 10**6)


def placement(path) -> str:
    return repr(path.gateway._placement)


async def test_a_worker_without_prefill_room_gets_nothing_while_another_has(start_path, connections):
    async with start_path() as path:
        with prefilling(path, "w0"):
            asking = [ask(connections, path.url, path.key, body) for body in [BODY, STREAM] * 4]
            endings = await asyncio.gather(*asking)
        assert {ending.worker for ending in endings} == {"w1"}
        assert await path.engines[0].journal() == []


async def test_without_room_anywhere_a_request_waits_in_front_of_the_engines_until_there_is(start_path, connections):
    async with start_path(upstream={"credit_wait_s": 60}) as path:
        with prefilling(path, "w0") as working, prefilling(path, "w1"):
            asking = asyncio.create_task(ask(connections, path.url, path.key, STREAM))
            await until(lambda: "[1 waiting]" in placement(path))
            assert [engine.engine.batch.running for engine in path.engines] == [0, 0]
            working.prefilled(is_observed=False)
            assert (await asking).is_finished
        assert (await asking).worker == "w0"


async def test_those_who_wait_for_room_get_it_in_order_of_arrival(start_path, connections):
    async with start_path(count=1, upstream={"credit_wait_s": 60}) as path:
        asking = []
        with prefilling(path, "w0"):
            for number in range(5):
                asking.append(asyncio.create_task(ask(connections, path.url, path.key, STREAM)))
                await until(lambda: f"[{number + 1} waiting]" in placement(path))  # noqa: B023
        endings = await asyncio.gather(*asking)
        served = [entry["request"] for entry in await path.engines[0].journal()]
    assert [request.removeprefix("chatcmpl-") for request in served] == [ending.request_id for ending in endings]


async def test_whoever_has_waited_long_enough_takes_the_least_loaded_worker(start_path, connections):
    async with start_path(upstream={"credit_wait_s": 0.1}) as path:
        with prefilling(path, "w0"), path.gateway._roster.working("w0", 10**6), prefilling(path, "w1"):
            ending = await ask(connections, path.url, path.key, STREAM)
        assert (ending.is_finished, ending.worker) == (True, "w1")


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_client_that_leaves_while_it_waits_for_room_leaves_nothing_behind(start_path, connections, body):
    async with start_path(count=1, upstream={"credit_wait_s": 60}) as path:
        with prefilling(path, "w0"):
            asking = asyncio.create_task(ask(connections, path.url, path.key, body))
            await until(lambda: "[1 waiting]" in placement(path))
            asking.cancel()
            await until(lambda: "[0 in flight, 0 waiting" in path.queue)
        await until(lambda: "[0 waiting]" in placement(path))
        assert (path.views[0].in_flight, path.views[0].prefill_tokens) == (0, 0)
        assert (await ask(connections, path.url, path.key, body)).is_finished


async def test_a_retry_waits_for_room_on_another_worker(start_path, connections):
    async with start_path(upstream={"credit_wait_s": 60}) as path:
        await path.engines[0].fault(error_next=1)
        with prefilling(path, "w1"):
            asking = asyncio.create_task(ask(connections, path.url, path.key, STREAM))
            await until(lambda: "[1 waiting]" in placement(path))
            assert path.views[0].in_flight + path.views[1].in_flight == 1, "it has left the worker that failed it"
        ending = await asking
    assert (ending.is_finished, ending.worker) == (True, "w1")


async def test_a_whole_answers_prompt_counts_as_prefilled_long_before_its_end(start_path, connections):
    async with start_path(count=1) as path:
        asking = asyncio.create_task(ask(connections, path.url, path.key, BODY | {"max_tokens": 1000}))
        await until(lambda: path.views[0].prefill_tokens > 0)
        await until(lambda: path.views[0].prefill_tokens == 0)
        assert path.views[0].in_flight == 1
        assert (await asking).is_finished


async def test_a_whole_answer_before_its_first_token_was_due_teaches_how_fast_the_engine_is(start_path, connections):
    async with start_path(count=1) as path:
        await path.beat(0, max_batched_tokens=10)
        credit = path.gateway._roster.credit("w0")
        assert credit.predicted_ttft_s(256) > 10
        assert (await ask(connections, path.url, path.key, BODY | {"temperature": -1})).status == 400
        assert credit.predicted_ttft_s(256) > 10, "a refusal says nothing of it"
        assert (await ask(connections, path.url, path.key, BODY)).is_finished
        assert credit.predicted_ttft_s(256) < 10


async def test_an_engine_gets_no_more_sequences_than_it_has_credit_for(start_path, connections):
    pace = Pace(max_num_seqs=4, inter_token_s=0.002, prefill_tokens_per_s=1e6)
    async with start_path(engine={"pace": pace}) as path:
        for number in range(2):
            await path.beat(number, max_seqs=4)
        asking = [asyncio.create_task(ask(connections, path.url, path.key, STREAM)) for _ in range(24)]
        most = 0
        while not all(task.done() for task in asking):
            most = max(most, *(engine.engine.batch.running + engine.engine.batch.waiting for engine in path.engines))
            await asyncio.sleep(0.001)
        assert all(task.result().is_finished for task in asking)
    assert most == 4


async def test_the_engines_word_in_the_head_of_an_answer_cuts_its_credit(start_path, connections):
    pace = Pace(max_num_seqs=1, inter_token_s=0.002, prefill_tokens_per_s=1e6)
    async with start_path(count=1, engine={"pace": pace}, upstream={"credit": "adaptive"}) as path:
        assert path.views[0].credit_seqs == 8
        endings = await asyncio.gather(*(ask(connections, path.url, path.key, BODY) for _ in range(6)))
        assert all(ending.is_finished for ending in endings)
        assert path.views[0].credit_seqs == 5


async def test_with_credit_off_the_engine_gets_all_there_is(start_path, connections):
    async with start_path(count=1, upstream={"credit": "off"}) as path, asyncio.timeout(20):
        with ExitStack() as stack:
            stack.enter_context(prefilling(path, "w0"))
            asking = [asyncio.create_task(ask(connections, path.url, path.key, STREAM)) for _ in range(20)]
            await until(lambda: path.views[0].in_flight == 21)
            assert all(ending.is_finished for ending in await asyncio.gather(*asking))
