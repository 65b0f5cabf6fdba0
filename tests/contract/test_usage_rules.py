"""
What is billed, case by case, on the simulated engine and on a real vLLM: the rows of the table in docs/finance.md.

The engine's own counters are the truth that a bill is held against.
"""

import asyncio
import json

import httpx
import pytest

from gateway.core.prices import Tier, Unit
from gateway.core.roster import Beat, WorkerState
from gateway.core.sse import last_usage
from gateway.core.usage import Usage
from tests.contract.conftest import API_KEY
from tests.servers.clients import COUNTED
from tests.servers.prices import declare, version
from tests.servers.tap import tapped
from tests.waiting import until
from workers.engines.vllm import scrape

pytestmark = pytest.mark.timeout(900)  # the real engine starts within it

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "How long must I wait, asked the farmer in the yard."}]
BODY = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 12, "ignore_eos": True}
STREAM = BODY | {"stream": True}
LONG = {"max_tokens": 3500}


class Metered:
    """A gateway before one engine, a client for it, and the engine's own counters."""

    def __init__(self, path, engine, client):
        self.path, self.engine, self.client = path, engine, client

    def counted(self):
        """Give the engine's counters: tokens of prompts, of answers."""
        counters = scrape(self.engine.get("/metrics").text)
        return counters.prompt_tokens_total, counters.generation_tokens_total

    async def ask(self, body, **headers):
        return await self.client.post(CHAT, json=body, headers=headers)

    async def only_event(self):
        [event] = (await self.path.events()).values()
        return event

    async def until_idle(self):
        """Ask off the loop: the gateway lives on it, and must hear of a client's leaving while the engine answers."""
        async with asyncio.timeout(30):
            while scrape((await asyncio.to_thread(self.engine.get, "/metrics")).text).running:
                await asyncio.sleep(0.005)


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.vllm)])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
async def metered(engine, start_path):
    async with start_path(count=0) as path:
        await declare(path, version(batch_thousandths=500))
        url = str(engine.base_url).rstrip("/")
        known = {"worker": "w0", "pool": "tiny", "models": ("tiny",), "url": url, "engine_key": API_KEY}
        await path.gateway._roster.beat(Beat(**known, state=WorkerState.READY, max_seqs=4))
        headers = {"authorization": f"Bearer {path.key}"}
        async with httpx.AsyncClient(base_url=path.url, headers=headers, timeout=60, trust_env=False) as client:
            yield Metered(path, engine, client)


def billed(event):
    return Usage(event["prompt_tokens"], event["completion_tokens"], event["cached_tokens"], event["reasoning_tokens"])


async def test_a_whole_answer_is_billed_by_the_engines_usage(metered):
    before = metered.counted()
    answer = await metered.ask(BODY)
    event, after = await metered.only_event(), metered.counted()
    assert billed(event) == last_usage(answer.content)
    assert (event["flag"], event["outcome"], event["price"]) == ("exact", "completed", "price_1")
    assert (event["prompt_tokens"], event["completion_tokens"]) == (after[0] - before[0], after[1] - before[1])


async def test_a_stream_is_billed_like_the_whole_answer_also_if_its_client_asks_for_no_usage(metered):
    before = metered.counted()
    text = (await metered.ask(STREAM)).content
    event, after = await metered.only_event(), metered.counted()
    assert last_usage(text) is None
    assert (event["flag"], event["completion_tokens"]) == ("exact", 12)
    assert (event["prompt_tokens"], event["completion_tokens"]) == (after[0] - before[0], after[1] - before[1])


async def test_a_stream_whose_client_leaves_is_billed_its_prompt_and_what_was_delivered(metered):
    """To the token: the last cumulative usage that went out, however much more the engine made."""
    before = metered.counted()
    with tapped(httpx.URL(metered.path.url).port) as tap:
        body = STREAM | LONG | {"stream_options": COUNTED}
        async with metered.client.stream("POST", f"{tap.url}{CHAT}", json=body) as answer:
            async for line in answer.aiter_lines():
                if '"completion_tokens":7' in line:
                    break
        await until(lambda: not tap.open_connections, within_s=30)
        [delivered] = tap.answers.values()
    await metered.until_idle()
    event, after = await metered.only_event(), metered.counted()
    assert (event["flag"], event["outcome"]) == ("delivered", "client_gone")
    assert (event["prompt_tokens"], event["completion_tokens"]) == (
        delivered.usage.prompt,
        delivered.usage.completion,
    )
    assert event["completion_tokens"] >= 7
    assert event["prompt_tokens"] == after[0] - before[0]
    assert event["completion_tokens"] + event["undelivered_tokens"] <= after[1] - before[1] < LONG["max_tokens"]


async def test_a_whole_answer_whose_client_leaves_is_not_billed_and_its_engine_stops(metered):
    """Nothing was delivered. What the engine made until then is residue, counted as a request without an answer."""
    before = metered.counted()
    asking = asyncio.create_task(metered.ask(BODY | LONG))
    await until(lambda: metered.path.views[0].in_flight)
    await asyncio.sleep(0.1)  # it is at work; a busy engine may tell so only when it is done
    asking.cancel()
    await metered.until_idle()
    event, after = await metered.only_event(), metered.counted()
    assert (event["outcome"], event["flag"], event["cost_nano"]) == ("client_gone", "none", 0)
    assert (event["attempts"], billed(event), event["undelivered_tokens"]) == (1, Usage(), 0)
    assert after[1] - before[1] < LONG["max_tokens"]


async def test_batch_is_billed_the_same_tokens_at_its_factor(metered):
    await metered.ask(BODY)
    await metered.ask(BODY | {"max_tokens": 11}, **{"X-Sluice-Class": "batch"})
    standard, batch = sorted((await metered.path.events()).values(), key=lambda event: -event["completion_tokens"])
    femto = version().tiers[0].femto
    tokens = batch["prompt_tokens"] - batch["cached_tokens"], batch["cached_tokens"], 11
    prices = femto[Unit.INPUT], femto[Unit.CACHED_INPUT], femto[Unit.OUTPUT]
    exact = sum(quantity * price for quantity, price in zip(tokens, prices, strict=True)) / 2 / 10**6
    assert (batch["service_class"], standard["service_class"]) == ("batch", "standard")
    assert abs(batch["cost_nano"] - exact) <= 0.5
    assert batch["cost_nano"] < standard["cost_nano"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_several_choices_are_billed_the_prompt_once_and_all_their_tokens(metered, is_stream):
    """The engine counts the prompt once for each: the event's n says why."""
    before = metered.counted()
    await metered.ask(BODY | {"n": 3, "temperature": 1, "stream": is_stream})
    event, after = await metered.only_event(), metered.counted()
    assert (event["flag"], event["choices"], event["completion_tokens"]) == ("exact", 3, 36)
    assert after[0] - before[0] == 3 * event["prompt_tokens"]
    assert after[1] - before[1] == 36


async def test_several_choices_that_are_cut_are_billed_what_each_had_delivered(metered):
    with tapped(httpx.URL(metered.path.url).port) as tap:
        body = STREAM | LONG | {"n": 3, "temperature": 1, "stream_options": COUNTED}
        async with metered.client.stream("POST", f"{tap.url}{CHAT}", json=body) as answer:
            async for line in answer.aiter_lines():
                if '"completion_tokens":9' in line:
                    break
        await until(lambda: not tap.open_connections, within_s=30)
        [delivered] = tap.answers.values()
    await metered.until_idle()
    event = await metered.only_event()
    assert (event["flag"], event["choices"]) == ("delivered", 3)
    assert event["prompt_tokens"] == delivered.usage.prompt
    assert event["completion_tokens"] == sum(_last_of_each_choice(delivered.body).values()) > 9


def _last_of_each_choice(body):
    lines = (line for line in body.decode().split("\n") if line.startswith("data: {"))
    events = (json.loads(line[6:]) for line in lines)
    return {each["choices"][0]["index"]: each["usage"]["completion_tokens"] for each in events if each["choices"]}


async def test_tokens_from_the_prefix_cache_are_billed_as_such(metered):
    words = {"messages": [{"role": "user", "content": "the river and the sluice and the water " * 40}], "max_tokens": 2}
    for _ in range(2):
        answer = await metered.ask(BODY | words)
    first, second = sorted((await metered.path.events()).values(), key=lambda event: event["arrived_ms"])
    assert first["cached_tokens"] == 0
    assert second["cached_tokens"] == last_usage(answer.content).cached > 0
    assert second["prompt_tokens"] == first["prompt_tokens"] > second["cached_tokens"]
    assert second["cost_nano"] < first["cost_nano"]


async def test_a_cut_stream_does_not_know_its_cached_tokens_and_bills_them_as_input(metered):
    """Engines tell of the cache only at the end of a stream."""
    words = {"messages": [{"role": "user", "content": "the sluice and the river and the water " * 40}]}
    await metered.ask(BODY | words)
    async with metered.client.stream("POST", CHAT, json=STREAM | LONG | words) as answer:
        async for _ in answer.aiter_lines():
            break
    await metered.until_idle()
    events = (await metered.path.events()).values()
    [cut] = [event for event in events if event["outcome"] == "client_gone"]
    assert (cut["flag"], cut["cached_tokens"]) == ("delivered", 0)
    assert cut["prompt_tokens"] > 128


@pytest.mark.parametrize(
    "engine", ["simulated", pytest.param("real_with_tools", marks=pytest.mark.vllm)], indirect=True
)
async def test_a_tool_call_is_billed_like_text(metered):
    function = {"name": "open", "parameters": {"type": "object", "properties": {"gate": {"type": "integer"}}}}
    choice = {"type": "function", "function": {"name": "open"}}
    before = metered.counted()
    tools = {"tools": [{"type": "function", "function": function}], "tool_choice": choice, "max_tokens": 30}
    answer = await metered.ask(BODY | tools)
    event, after = await metered.only_event(), metered.counted()
    assert answer.status_code == 200, answer.text
    assert billed(event) == last_usage(answer.content)
    assert (event["prompt_tokens"], event["completion_tokens"]) == (after[0] - before[0], after[1] - before[1])


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_the_engine_refuses_is_not_billed(metered, is_stream):
    before = metered.counted()
    words = {"messages": [{"role": "user", "content": "river " * 6000}], "stream": is_stream}
    answer = await metered.ask(BODY | words)
    event = await metered.only_event()
    assert answer.status_code == 400
    assert (event["outcome"], event["flag"], billed(event), event["cost_nano"]) == (
        "engine_refused",
        "none",
        Usage(),
        0,
    )
    assert metered.counted() == before


async def test_a_long_prompt_is_billed_whole_at_its_tier(metered):
    tiers = (Tier(0, {Unit.INPUT: 1000, Unit.OUTPUT: 1000}), Tier(100, {Unit.INPUT: 10**9, Unit.OUTPUT: 10**9}))
    await declare(metered.path, version(to_ms=1), version("price_2", from_ms=1, tiers=tiers))
    await metered.ask(BODY | {"messages": [{"role": "user", "content": "a gate " * 120}]})
    event = await metered.only_event()
    assert (event["tier"], event["price"]) == (1, "price_2")
    assert event["cost_nano"] == (event["prompt_tokens"] + event["completion_tokens"]) * 1000
