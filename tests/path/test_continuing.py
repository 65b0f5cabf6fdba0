"""A stream whose worker fails in mid-stream goes on with another worker, word for word; or ends as the books say."""

import asyncio
import json

import pytest

from gateway.core.roster import WorkerState
from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, ask
from tests.waiting import until

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


def text(ending):
    """Give what the stream said."""
    choices = [choice for chunk in chunks(ending) for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content") or "" if "delta" in choice else choice["text"] for choice in choices)


async def only_event(path, *, but=()):
    [event] = [event for event in (await path.events()).values() if event["id"] not in but]
    return event


async def ask_and_cut(path, connections, body, after_tokens, **fault):
    """Ask, and have the first worker break off after so many tokens; the others are there by the time it is missed."""
    for number in range(1, len(path.engines)):
        await path.beat(number, state=WorkerState.DRAINING)
    await path.engines[0].fault(crash_next=1, crash_after_tokens=after_tokens, **fault)
    asking = asyncio.create_task(ask(connections, path.url, path.key, body))
    await until(lambda: any(view.in_flight for view in path.views) or asking.done())
    for number in range(1, len(path.engines)):
        await path.beat(number)
    return await asking


@pytest.mark.parametrize("how", ["drop", "silence", "error"])
@pytest.mark.parametrize("body", [STREAM, PROMPT_STREAM], ids=["chat", "completion"])
async def test_a_stream_goes_on_with_another_worker_as_if_nothing_had_happened(start_path, connections, how, body):
    async with start_path(upstream={"idle_timeout_s": 0.5}) as path:
        whole = await ask(connections, path.url, path.key, body)
        ending = await ask_and_cut(path, connections, body, 7, crash_how=how)
        event = await only_event(path, but=[whole.request_id])
    assert ending.is_finished
    assert text(ending) == text(whole)
    assert ending.usage == whole.usage
    assert ending.body.count(b'"role":"assistant"') == whole.body.count(b'"role":"assistant"')
    assert ending.body.count(b"[DONE]") == 1
    assert len({(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in chunks(ending)}) == 1
    assert b'token_ids":[' not in ending.body
    assert [event["outcome"], event["flag"], event["completion_tokens"]] == ["completed", "exact", 40]
    assert [event["continued"], event["carried_tokens"], event["attempts"], event["worker"]] == [1, 7, 2, "w1"]
