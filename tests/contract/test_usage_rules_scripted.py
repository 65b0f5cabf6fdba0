"""
What is billed where no engine at hand can be made to do it: the other rows of the table in docs/finance.md.

The engine here says what it is told to, in vLLM's words or in another engine's.
"""

import base64

import httpx
import pytest

from gateway.core.prices import Unit
from gateway.core.roster import Beat, WorkerState
from gateway.core.usage import Usage
from tests.core.test_media import wav
from tests.servers.prices import FEMTO, declare, version
from tests.servers.scripted_engine import delta, scripted_engine, stream, whole
from tests.waiting import until

CHAT = "/v1/chat/completions"
PROMPT = "How long must I wait?"  # 21 bytes: taken for 6 tokens
BODY = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}]}
STREAM = BODY | {"stream": True}
REASONED = {
    "prompt_tokens": 50,
    "total_tokens": 90,
    "completion_tokens": 40,
    "completion_tokens_details": {"reasoning_tokens": 30},
    "prompt_tokens_details": {"cached_tokens": 32, "multimodal_tokens": {"image": 20}},
}


@pytest.fixture
async def ask(start_path):
    """A function that sends a request to a gateway before an engine that gives *answers*; it gives answer and event."""
    async with start_path(count=0) as path:
        await declare(path, version())
        headers = {"authorization": f"Bearer {path.key}"}

        async def send(body, *answers):
            async with (
                scripted_engine(*answers) as url,
                httpx.AsyncClient(base_url=path.url, headers=headers, timeout=20, trust_env=False) as client,
            ):
                beat = {"pool": "tiny", "models": ("tiny",), "url": url, "state": WorkerState.READY, "max_seqs": 8}
                await path.gateway._roster.beat(Beat(worker="w0", **beat))
                answer = await client.post(CHAT, json=body)
                [event] = (await path.events()).values()
                return answer, event

        yield send


def billed(event):
    return Usage(event["prompt_tokens"], event["completion_tokens"], event["cached_tokens"], event["reasoning_tokens"])


def cost(**quantities):
    """Give the amount of so many of each unit, rounded once as the ledger does it."""
    femto = sum(quantity * FEMTO[Unit(unit)] for unit, quantity in quantities.items())
    return round(femto / 10**6)


async def test_reasoning_cached_and_other_tokens_are_billed_at_their_own_prices(ask):
    _, event = await ask(BODY, whole({"content": "x"}, usage=REASONED))
    assert (event["flag"], billed(event)) == ("exact", Usage(50, 40, 32, 30))
    assert event["cost_nano"] == cost(input=18, cached_input=32, output=10, reasoning=30)


async def test_a_reasoning_stream_that_breaks_off_is_billed_the_reasoning_that_was_delivered(ask):
    so_far = {"prompt_tokens": 50, "total_tokens": 57, "completion_tokens": 7}
    so_far["completion_tokens_details"] = {"reasoning_tokens": 5}
    answer, event = await ask(STREAM, stream(delta(reasoning="hm", usage=so_far), is_cut=True))
    assert b'"error"' in answer.content
    assert (event["outcome"], event["flag"], billed(event)) == ("upstream_failed", "delivered", Usage(50, 7, 0, 5))


async def test_image_and_audio_parts_are_billed_beside_their_tokens(ask):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(1500)).decode(), "format": "wav"}}
    body = BODY | {"messages": [{"role": "user", "content": [image, {"type": "text", "text": "?"}, image, audio]}]}
    usage = {"prompt_tokens": 50, "total_tokens": 51, "completion_tokens": 1}
    _, event = await ask(body, whole({"content": "x"}, usage=usage))
    assert (event["images"], event["audio_ms"]) == (2, 1500)
    assert event["cost_nano"] == cost(input=50, output=1, image=2, audio=1500)


async def test_images_of_a_request_that_was_not_served_are_not_billed(ask):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = BODY | {"messages": [{"role": "user", "content": [image]}]}
    refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    _, event = await ask(body, refusal)
    assert (event["outcome"], event["images"], event["cost_nano"]) == ("engine_refused", 0, 0)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_engine_that_sends_no_usage_is_counted_by_the_gateway(ask, is_stream):
    """Four bytes of text are a token, rounded up, of the prompt as of the answer."""
    text = "As long as the water stands."  # 28 bytes
    events = [delta(role="assistant", content=""), delta(content=text[:9]), delta(content=text[9:])]
    said = stream(*events) if is_stream else whole({"content": text})
    answer, event = await ask(BODY | {"stream": is_stream}, said)
    assert answer.status_code == 200
    assert (event["flag"], event["outcome"], billed(event)) == ("estimated", "completed", Usage(6, 7))
    assert event["cost_nano"] == cost(input=6, output=7)


async def test_a_stream_without_usage_that_breaks_off_is_billed_what_was_delivered_as_estimated(ask):
    answer, event = await ask(STREAM, stream(delta(content="As long"), is_cut=True))
    assert b"As long" in answer.content
    assert (event["flag"], event["outcome"], billed(event)) == ("estimated", "upstream_failed", Usage(6, 2))


async def test_a_usage_that_comes_at_the_end_alone_counts_exactly(ask):
    """Other engines do not tell their usage continuously: it is estimated until they do."""
    final = {"id": "1", "choices": [], "usage": {"prompt_tokens": 9, "total_tokens": 12, "completion_tokens": 3}}
    _, event = await ask(STREAM, stream(delta(content="As long as the water stands."), final))
    assert (event["flag"], billed(event)) == ("exact", Usage(9, 3))


async def test_a_usage_that_contradicts_itself_is_no_reason_to_bill_nothing(ask):
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}}
    answer, event = await ask(BODY, whole({"content": "x"}, usage=usage))
    assert answer.status_code == 200
    assert (event["flag"], billed(event)) == ("exact", Usage(9, 3, 9))


async def test_a_request_that_leaves_before_the_first_byte_is_not_billed(start_path):
    async with start_path(count=1) as path:
        await path.engines[0].fault(hang_next=1)
        headers = {"authorization": f"Bearer {path.key}"}
        async with httpx.AsyncClient(base_url=path.url, headers=headers, timeout=0.5, trust_env=False) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(CHAT, json=STREAM)
        await until(lambda: not path.views[0].in_flight)
        [event] = (await path.events()).values()
    assert (event["outcome"], event["flag"], billed(event)) == ("client_gone", "none", Usage())
    assert event["attempts"] == 1
