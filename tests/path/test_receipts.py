"""What an answer cost is told with it, and is what the Journal says."""

import asyncio
import json
from pathlib import Path

import httpx
import openai
import pytest

from gateway.core.prices import Tier, Unit
from gateway.core.rating import cost_nano, rate
from gateway.core.sse import DONE
from gateway.core.usage import MeterEvent
from tests.servers.prices import declare, version

SCRIPT = Path(__file__).parents[1] / "node" / "receipt.mjs"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True}
STREAM = BODY | {"stream": True}
ASKED = {"X-Sluice-Receipt": "true"}


@pytest.fixture
async def priced(start_path):
    """A gateway whose model has a price, and a client for it."""
    async with start_path(count=1) as path:
        await declare(path, version())
        async with client_of(path) as client:
            yield path, client


def client_of(path):
    headers = {"authorization": f"Bearer {path.key}"}
    return httpx.AsyncClient(base_url=path.url, headers=headers, timeout=30, trust_env=False)


async def chat(client, body, **headers):
    return await client.post("/v1/chat/completions", json=body, headers=headers)


async def only_event(path):
    [event] = (await path.events()).values()
    return event


def as_event(row):
    return MeterEvent(**{name: row[name] for name in MeterEvent.__dataclass_fields__})


def comment(text):
    [line] = [line for line in text.split("\n") if line.startswith(": receipt ")]
    return json.loads(line.removeprefix(": receipt "))


async def test_a_whole_answer_says_its_cost_without_being_asked(priced):
    path, client = priced
    answer = await chat(client, BODY)
    event = await only_event(path)
    assert answer.headers["x-sluice-cost-nano"] == str(event["cost_nano"])
    assert event["cost_nano"] == cost_nano(rate(as_event(event), version()))
    assert (answer.headers["x-sluice-currency"], answer.headers["x-sluice-price"]) == ("CNY", "price_1")
    assert event["price"] == "price_1"
    assert "x-sluice-receipt" not in answer.headers


async def test_a_whole_answer_carries_its_receipt_if_asked(priced):
    path, client = priced
    answer = await chat(client, BODY, **ASKED)
    receipt, event = json.loads(answer.headers["x-sluice-receipt"]), await only_event(path)
    assert receipt["id"] == answer.headers["x-request-id"] == event["id"]
    assert (receipt["price"], receipt["currency"], receipt["tier"]) == ("price_1", "CNY", 0)
    assert (receipt["service_class"], receipt["rule"]) == ("standard", "exact")
    assert {line["unit"]: line["quantity"] for line in receipt["lines"]} == {
        "input": event["prompt_tokens"],
        "output": 20,
    }
    assert receipt["cost_nano"] == event["cost_nano"]
    assert receipt["cost"].startswith("0.0000")


async def test_a_streams_receipt_comes_right_before_its_end_and_every_parser_skips_it(priced):
    path, client = priced
    answer = await chat(client, STREAM, **ASKED)
    event = await only_event(path)
    assert comment(answer.text)["cost_nano"] == event["cost_nano"]
    assert answer.content.endswith(b"\n\n" + DONE)
    assert answer.content.split(b"\n\n")[-3].startswith(b": receipt {")


async def test_nobody_gets_a_receipt_who_did_not_ask(priced):
    _, client = priced
    for headers in ({}, {"X-Sluice-Receipt": "false"}):
        assert "receipt" not in (await chat(client, STREAM, **headers)).text


async def test_a_wish_for_another_kind_of_receipt_is_refused_and_named(priced):
    _, client = priced
    answer = await chat(client, BODY, **{"X-Sluice-Receipt": "yes"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Sluice-Receipt")


async def test_an_old_sdk_for_go_gets_no_blank_line_after_the_comment(priced):
    _, client = priced
    answer = await chat(client, STREAM, **ASKED, **{"User-Agent": "OpenAI/Go 3.42.0"})
    assert answer.content.endswith(b"}\n" + DONE)
    assert comment(answer.text)["object"] == "sluice.receipt"


async def test_without_a_price_a_receipt_says_quantities_and_no_cost(start_path):
    async with start_path(count=1) as path, client_of(path) as client:
        answer = await chat(client, BODY, **ASKED)
        receipt = json.loads(answer.headers["x-sluice-receipt"])
    assert "x-sluice-cost-nano" not in answer.headers
    assert (receipt["price"], receipt["cost_nano"], receipt["cost"]) == (None, None, None)
    assert receipt["lines"][1] == {"unit": "output", "quantity": 20, "femto": None}


async def test_a_price_that_changes_while_a_stream_runs_is_for_the_next_one(priced):
    """The version is frozen at arrival: what the request costs is known from its first moment on."""
    path, client = priced
    async with client.stream(
        "POST", "/v1/chat/completions", json=STREAM | {"max_tokens": 400}, headers=ASKED
    ) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        dearer = version("price_2", from_ms=1, tiers=(Tier(0, {Unit.INPUT: 10**9, Unit.OUTPUT: 10**12}),))
        await declare(path, version(to_ms=1), dearer)
        rest = "\n".join([line async for line in lines])
    assert comment(rest)["price"] == "price_1"
    later = await chat(client, BODY, **ASKED)
    assert later.headers["x-sluice-price"] == "price_2"
    events = await path.events()
    assert {event["price"] for event in events.values()} == {"price_1", "price_2"}


async def test_batch_has_its_factor_and_long_prompts_their_tier(start_path):
    tiers = (Tier(0, {Unit.INPUT: 1000, Unit.OUTPUT: 1000}), Tier(50, {Unit.INPUT: 10**9, Unit.OUTPUT: 10**9}))
    async with start_path(count=1) as path, client_of(path) as client:
        await declare(path, version(tiers=tiers, batch_thousandths=500))
        words = {"messages": [{"role": "user", "content": "water " * 200}]}
        answer = await chat(client, BODY | words, **ASKED, **{"X-Sluice-Class": "batch"})
        event = await only_event(path)
    receipt = json.loads(answer.headers["x-sluice-receipt"])
    assert (receipt["tier"], receipt["service_class"]) == (1, "batch")
    assert receipt["cost_nano"] == event["cost_nano"] == (event["prompt_tokens"] + 20) * 500


async def test_what_the_engine_refuses_costs_nothing(priced):
    path, client = priced
    answer = await chat(client, BODY | {"temperature": -1})
    assert (answer.status_code, answer.headers["x-sluice-cost-nano"]) == (400, "0")
    assert (await only_event(path))["cost_nano"] == 0


async def with_python(path, form):
    content, receipt = "", None
    headers = {"X-Sluice-Receipt": form}
    async with openai.AsyncOpenAI(base_url=f"{path.url}/v1", api_key=path.key, default_headers=headers) as client:
        messages = [{"role": "user", "content": "x"}]
        async for chunk in await client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=5, stream=True
        ):
            content += chunk.choices[0].delta.content or "" if chunk.choices else ""
            receipt = (chunk.model_extra or {}).get("sluice_receipt", receipt)
    return {"content": content, "receipt": receipt}


async def with_node(path, form):
    process = await asyncio.create_subprocess_exec(
        "node", SCRIPT, f"{path.url}/v1", path.key, form, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


SDKS = [pytest.param(with_python, id="python"), pytest.param(with_node, id="node", marks=pytest.mark.node)]


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_does_not_see_a_receipt_that_is_a_comment(priced, sdk):
    path, _ = priced
    seen = await sdk(path, "true")
    assert len(seen["content"].split()) >= 1
    assert seen["receipt"] is None


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_hands_on_a_receipt_that_is_a_chunk(priced, sdk):
    path, _ = priced
    seen = await sdk(path, "chunk")
    event = await only_event(path)
    assert len(seen["content"].split()) >= 1
    assert (seen["receipt"]["id"], seen["receipt"]["cost_nano"]) == (event["id"], event["cost_nano"])
