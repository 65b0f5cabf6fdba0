"""Text completions take the same path as chats: keys, prices, line, bill; whatever form their prompt has."""

import json

import openai
import pytest

from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, ask
from tests.waiting import until

IDS = list(range(300, 320))
BODY = {"model": "tiny", "prompt": "a b c", "max_tokens": 20, "ignore_eos": True}
STREAM = BODY | {"stream": True, "stream_options": COUNTED}


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


def completions_told(ending):
    """Give, after each frame, how many tokens either answer had."""
    told = [0, 0]
    for line in ending.body.split(b"\n"):
        if line.startswith(b"data: {") and (choices := json.loads(line[6:]).get("choices")):
            told[choices[0]["index"]] = json.loads(line[6:])["usage"]["completion_tokens"]
            yield list(told)


def billed(event):
    return event["prompt_tokens"], event["completion_tokens"], event["choices"], event["outcome"], event["flag"]


@pytest.mark.parametrize(
    ("body", "tokens", "choices"),
    [
        (STREAM, (3, 20), 1),
        (BODY | {"prompt": IDS}, (20, 20), 1),
        (STREAM | {"prompt": [IDS, IDS[:5]]}, (25, 40), 1),
        (BODY | {"prompt": ["a b c", "d e"], "n": 2}, (5, 80), 2),
        (STREAM | {"prompt": ["a b c", "d e"], "n": 2}, (5, 80), 2),
        (BODY | {"max_tokens": None}, (3, 16), 1),
    ],
    ids=["text", "token ids", "two lists of ids", "two choices each", "the same, streamed", "sixteen unless it says"],
)
async def test_a_completion_is_billed_its_prompts_once_and_all_answers(start_path, connections, body, tokens, choices):
    body = {name: value for name, value in body.items() if value is not None}
    async with start_path(count=1) as path:
        ending = await ask(connections, path.url, path.key, body)
        [event] = (await path.events()).values()
    assert ending.is_finished
    assert (ending.usage.prompt, ending.usage.completion) == tokens
    assert billed(event) == (*tokens, choices, "completed", "exact")


async def test_several_prompts_that_are_cut_are_billed_what_each_had_delivered(start_path, connections):
    async with start_path(count=1) as path:
        await path.engines[0].fault(crash_next=1, crash_after_tokens=14)
        ending = await ask(connections, path.url, path.key, STREAM | {"prompt": [IDS, IDS[:5]]})
        [event] = (await path.events()).values()
    assert ending.has_error_event
    given = sum(max(counts) for counts in zip(*completions_told(ending), strict=True))
    assert billed(event) == (25, given, 1, "upstream_failed", "delivered")
    assert given in (13, 14)  # the last frame may be lost with the connection


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompt": None}, "prompt is required"),
        ({"prompt": []}, "prompt is required"),
        ({"prompt": 5}, "not an integer"),
        ({"prompt": ["a", 1]}, "of one kind"),
        ({"max_tokens": -1}, "at least 0"),
        ({"model": "nope"}, "does not exist"),
    ],
)
async def test_a_wrong_completion_is_refused_with_the_field_that_is_wrong(start_path, connections, asked, said):
    async with start_path(count=0) as path:
        ending = await ask(connections, path.url, path.key, BODY | asked)
    error = json.loads(ending.body)["error"]
    assert ending.status in (400, 404)
    assert said in error["message"]
    assert error["param"] == next(iter(asked))


async def test_the_official_client_completes(start_path):
    async with start_path(count=1) as path, openai.AsyncOpenAI(base_url=f"{path.url}/v1", api_key=path.key) as client:
        whole = await client.completions.create(model="tiny", prompt="a b c", max_tokens=8)
        stream = await client.completions.create(model="tiny", prompt="a b c", max_tokens=8, stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream]
    assert "".join(pieces) == whole.choices[0].text


async def test_a_completion_whose_client_leaves_stops_its_engine_and_frees_its_slot(start_path, connections):
    async with start_path(count=1) as path:
        connection = await connections.connect(path.url)
        data = json.dumps(STREAM | {"max_tokens": 2000}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {path.key}\r\n"
        connection.send(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        assert await connection.head(60) == 200
        assert await connection.read(60)
        connection.close()
        await until(lambda: not path.engines[0].engine.batch.running)
        await until(lambda: "[0 in flight, 0 waiting" in path.queue)
        [event] = (await path.events()).values()
    assert (event["outcome"], event["flag"]) == ("client_gone", "delivered")
