"""A stream whose worker fails in mid-stream goes on with another worker, word for word; or ends as the books say."""

import asyncio
import json
from pathlib import Path

import openai
import pytest

from gateway.composition import now_ms
from gateway.core.roster import WorkerState
from gateway.core.usage import parts_from_json
from gateway.finance.reconcile import compare
from gateway.ports.journal import EngineReading
from gateway.serve.wire import ConnectionPool
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_work import SqlWork
from tests.servers.clients import COUNTED, ask
from tests.waiting import until
from workers.engines.vllm import scrape

GOLDEN = Path(__file__).parent / "golden"

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 40, "ignore_eos": True}
STREAM = BODY | {"stream": True, "stream_options": COUNTED, "temperature": 0}
PROMPT = {"model": "tiny", "prompt": "a b c", "max_tokens": 40, "ignore_eos": True}
PROMPT_STREAM = PROMPT | {"stream": True, "stream_options": COUNTED, "temperature": 0}


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


def chunks(ending):
    """Give the stream's events, but for [DONE]."""
    return [json.loads(line[6:]) for line in ending.body.split(b"\n") if line.startswith(b"data: {")]


async def only_event(path, *, but=()):
    [event] = [event for event in (await path.events()).values() if event["id"] not in but]
    return event


async def ask_and_cut(path, connections, body, *cuts, **fault):
    """Ask, and have one worker after another break off."""
    return await while_cut(path, ask(connections, path.url, path.key, body), *cuts, **fault)


async def while_cut(path, question, *cuts, **fault):
    """Have one worker after another break off after so many tokens; the next is ready when it has."""
    for engine, after_tokens in zip(path.engines, cuts, strict=False):
        await engine.fault(crash_next=1, crash_after_tokens=after_tokens, **fault)
    for number in range(1, len(path.engines)):
        await path.beat(number, state=WorkerState.DRAINING)
    asking = asyncio.create_task(question)
    for number, engine in enumerate(path.engines[1 : len(cuts) + 1], start=1):
        crashed = path.engines[number - 1].engine.journal
        await until(lambda crashed=crashed: any(entry.outcome == "crashed" for entry in crashed) or asking.done())
        await path.beat(number)
        assert engine.engine.batch.running == 0
    return await asking


@pytest.mark.parametrize(
    ("body", "how"),
    [(STREAM, "drop"), (STREAM, "silence"), (STREAM, "error"), (PROMPT_STREAM, "drop")],
    ids=["chat", "silent", "error event", "completion"],
)
async def test_a_stream_goes_on_with_another_worker_as_if_nothing_had_happened(start_path, connections, how, body):
    async with start_path(upstream={"idle_timeout_s": 2.0}) as path:
        whole = await ask(connections, path.url, path.key, body)
        ending = await ask_and_cut(path, connections, body, 7, crash_how=how)
        event = await only_event(path, but=[whole.request_id])
    assert ending.is_finished
    assert ending.text == whole.text
    assert ending.usage == whole.usage
    assert ending.body.count(b'"role":"assistant"') == whole.body.count(b'"role":"assistant"')
    assert ending.body.count(b"[DONE]") == 1
    assert len({(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in chunks(ending)}) == 1
    assert b'token_ids":[' not in ending.body
    assert [event["outcome"], event["flag"], event["completion_tokens"]] == ["completed", "exact", 40]
    assert [event["continued"], event["carried_tokens"], event["attempts"], event["worker"]] == [1, 7, 2, "w1"]


@pytest.mark.parametrize("body", [STREAM, PROMPT_STREAM], ids=["chat", "completion"])
async def test_a_stream_whose_workers_fail_one_after_another_is_carried_on_and_billed_once(
    start_path, connections, body
):
    async with start_path(count=4) as path:
        whole = await ask(connections, path.url, path.key, body)
        ending = await ask_and_cut(path, connections, body, 7, 5, 9)
        event = await only_event(path, but=[whole.request_id])
    assert ending.is_finished
    assert ending.text == whole.text
    assert [event["continued"], event["carried_tokens"], event["attempts"], event["worker"]] == [3, 21, 4, "w3"]
    prompt = whole.usage.prompt
    assert [
        (part.worker, part.prompt_tokens, part.completion_tokens) for part in parts_from_json(event["carried_by"])
    ] == [
        ("w0", prompt, 7),
        ("w1", prompt + 7, 5),
        ("w2", prompt + 12, 9),
    ]
    assert (event["prompt_tokens"], event["completion_tokens"], event["undelivered_tokens"]) == (prompt, 40, 0)


async def test_the_books_explain_what_each_worker_did_of_a_continued_stream(start_path, connections):
    async with start_path(count=3) as path:
        began_ms = now_ms()
        assert (await ask_and_cut(path, connections, STREAM, 7, 5)).is_finished
        await path.events()
        work = SqlWork(path.gateway._database)
        readings = [await read_counters(number, engine, began_ms) for number, engine in enumerate(path.engines)]
        await asyncio.to_thread(SqlJournal(path.gateway._database).append_readings, readings)
        lines = compare(work, 0, now_ms() + 1)
    assert [line.worker for line in lines] == ["w0", "w1", "w2"]
    assert all(line.residue_completion_tokens != 0 for line in lines)
    assert {(line.unexplained_prompt_tokens, line.unexplained_completion_tokens) for line in lines} == {(0, 0)}
    assert sum(line.engine_completion_tokens for line in lines) == 40


async def read_counters(number, engine, began_ms):
    """Read an engine's counters as its agent would send them."""
    counters = scrape((await engine.http.get("/metrics")).text)
    return EngineReading(
        worker=f"w{number}",
        pool="tiny",
        started_ms=began_ms,
        read_ms=now_ms(),
        prompt_tokens=counters.prompt_tokens_total,
        completion_tokens=counters.generation_tokens_total,
        probe_prompt_tokens=0,
        probe_completion_tokens=0,
    )


async def test_a_client_that_asks_for_token_ids_gets_each_of_them_once(start_path, connections):
    body = STREAM | {"return_token_ids": True}
    async with start_path() as path:
        whole = await ask(connections, path.url, path.key, body)
        ending = await ask_and_cut(path, connections, body, 7)
    ids = [
        [token for chunk in chunks(each) for choice in chunk["choices"] for token in choice.get("token_ids") or ()]
        for each in (whole, ending)
    ]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 40
    assert ending.body.count(b'"prompt_token_ids":[') == 1


async def test_the_official_client_sees_one_stream(start_path):
    async with start_path() as path, openai.AsyncOpenAI(base_url=f"{path.url}/v1", api_key=path.key) as client:
        options = {name: STREAM[name] for name in ("model", "messages", "max_tokens", "temperature")}

        async def read():
            stream = await client.chat.completions.create(**options, stream=True, extra_body={"ignore_eos": True})
            return [chunk async for chunk in stream]

        pieces = [await read(), await while_cut(path, read(), 9)]
    assert len({piece.id for piece in pieces[1]}) == 1
    whole, said = ([piece.choices[0] for piece in each] for each in pieces)
    assert [choice.finish_reason for choice in said] == [None] * 40 + ["length"]
    assert [choice.delta.content for choice in said] == [choice.delta.content for choice in whole]


@pytest.mark.parametrize(
    "asked",
    [
        {"n": 2, "temperature": 1},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    ],
    ids=lambda asked: next(iter(asked)),
)
async def test_what_cannot_be_continued_exactly_ends_with_an_error_event_and_is_billed_as_delivered(
    start_path, connections, asked
):
    async with start_path() as path:
        ending = await ask_and_cut(path, connections, STREAM | asked, 7)
        event = await only_event(path)
    assert not ending.is_finished
    error = chunks(ending)[-1]["error"]
    assert error == json.loads((GOLDEN / "stream_broken_off.json").read_text())["error"]
    assert [event["outcome"], event["flag"], event["completion_tokens"]] == ["upstream_failed", "delivered", 7]
    assert [event["continued"], event["worker"]] == [0, "w0"]


async def test_no_worker_in_time_is_said_in_the_error_event(start_path, connections):
    async with start_path(count=1, upstream={"continuation_wait_s": 0.2}) as path:
        ending = await ask_and_cut(path, connections, STREAM, 7)
        event = await only_event(path)
    error = chunks(ending)[-1]["error"]
    assert error == json.loads((GOLDEN / "stream_not_continued.json").read_text())["error"]
    assert [event["outcome"], event["flag"], event["completion_tokens"]] == ["upstream_failed", "delivered", 7]


async def test_workers_that_die_spend_no_retries_until_a_second_one_dies_under_the_same_stream(start_path, connections):
    async with start_path(count=3, upstream={"retry_share": 0, "retries_min": 0}) as path:
        first = await ask_and_cut(path, connections, STREAM, 7)
        second = await ask_and_cut(path, connections, STREAM, 7, 7)
    assert first.is_finished
    assert second.has_error_event
    assert b"retry_budget_spent" in second.body


async def test_an_operator_can_switch_it_off(start_path, connections):
    async with start_path(upstream={"continuations_max": 0}) as path:
        ending = await ask_and_cut(path, connections, STREAM, 7)
    assert ending.has_error_event


async def test_a_client_that_leaves_while_its_stream_looks_for_a_worker_frees_its_slot(start_path, connections):
    async with start_path(count=1, upstream={"continuation_wait_s": 60}) as path:
        await path.engines[0].fault(crash_next=1, crash_after_tokens=7)
        asking = asyncio.create_task(ask(connections, path.url, path.key, STREAM))
        await until(lambda: any(entry.outcome == "crashed" for entry in path.engines[0].engine.journal))
        asking.cancel()
        await until(lambda: "[0 in flight, 0 waiting" in path.queue)
        event = await only_event(path)
    assert [event["outcome"], event["flag"], event["completion_tokens"]] == ["client_gone", "delivered", 7]
