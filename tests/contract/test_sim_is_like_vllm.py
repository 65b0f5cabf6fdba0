"""
The simulated engine is like vLLM: the same requests to both, and the same shapes back.

What is refused must be refused in the same words. Where the wording lists pydantic's unions, status, type and the
beginning of the place are compared.
"""

import json
import re
import time
from contextlib import ExitStack

import pytest

from tests.contract.conftest import CONTEXT_TOKENS
from tests.contract.shapes import described, frames
from workers.engines.vllm import scrape

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

MESSAGES = [{"role": "user", "content": "How long must I wait, asked the farmer in the yard."}]
USAGE = {"include_usage": True, "continuous_usage_stats": True}
IDS = [300 + number for number in range(20)]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def chat(**fields):
    body = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 4, "ignore_eos": True, **fields}
    return CHAT, {name: value for name, value in body.items() if value != "left out"}


def text(**fields):
    body = {"model": "tiny", "prompt": IDS, "temperature": 0, "max_tokens": 4, "ignore_eos": True, **fields}
    return COMPLETIONS, {name: value for name, value in body.items() if value != "left out"}


SERVED = {
    "chat": chat(),
    "chat with token ids": chat(return_token_ids=True),
    "chat with two choices": chat(n=2, temperature=1),
    "chat with text parts": chat(messages=[{"role": "user", "content": [{"type": "text", "text": "one"}]}]),
    "chat without a model": chat(model="left out"),
    "chat with the other name": chat(model="other"),
    "chat with an unknown field": chat(unknown_field={"x": 1}),
    "chat with max_completion_tokens": chat(max_tokens=1, max_completion_tokens=3),
    "chat with a cache salt": chat(cache_salt="tenant"),
    "chat without content": chat(messages=[{"role": "user"}]),
    "chat of no stream": chat(stream=None),
    "chat stream": chat(stream=True),
    "chat stream with usage": chat(stream=True, stream_options={"include_usage": True}),
    "chat stream with continuous usage": chat(stream=True, stream_options=USAGE),
    "chat stream with continuous usage only": chat(stream=True, stream_options={"continuous_usage_stats": True}),
    "chat stream with empty options": chat(stream=True, stream_options={}),
    "chat stream with token ids": chat(stream=True, return_token_ids=True, stream_options=USAGE),
    "chat stream of one token": chat(stream=True, max_tokens=1),
    "text": text(),
    "text with token ids": text(return_token_ids=True),
    "text with two choices": text(n=2, temperature=1),
    "text of two prompts": text(prompt=[IDS, IDS[:5]]),
    "text of a string": text(prompt="How long must I wait?"),
    "text of two strings": text(prompt=["How long", "must I wait?"]),
    "text without a limit": text(max_tokens="left out"),
    "text to the end of the context": text(prompt=[300] * 2040, max_tokens=20),
    "text stream": text(stream=True),
    "text stream with usage": text(stream=True, stream_options={"include_usage": True}),
    "text stream with continuous usage": text(stream=True, stream_options=USAGE),
    "text stream with token ids": text(stream=True, return_token_ids=True, stream_options=USAGE),
    "text stream of two prompts": text(stream=True, prompt=[IDS, IDS[:5]]),
    "tokenize text": ("/tokenize", {"model": "tiny", "prompt": "How long?"}),
    "tokenize a conversation": ("/tokenize", {"messages": MESSAGES}),
    "detokenize": ("/detokenize", {"model": "tiny", "tokens": IDS}),
}

REFUSED = {
    "unknown model": chat(model="nope"),
    "unknown model in a stream": chat(model="nope", stream=True),
    "model of a wrong type": chat(model=5),
    "no messages": chat(messages="left out"),
    "messages of a wrong type": chat(messages="x"),
    "an empty conversation": chat(messages=[]),
    "temperature of a wrong type": chat(temperature="hot"),
    "a negative temperature": chat(temperature=-1),
    "top_p out of range": chat(top_p=3),
    "max_tokens of a wrong type": chat(max_tokens="x"),
    "a fraction of a token": chat(max_tokens=1.5),
    "no token at all": chat(max_tokens=0),
    "more tokens than the context": chat(max_tokens=5000),
    "no choice at all": chat(n=0),
    "two greedy choices": chat(n=2),
    "stream of a wrong type": chat(stream="maybe"),
    "stream options without a stream": chat(stream_options={"include_usage": True}),
    "stream options of a wrong type": chat(stream_options=5, stream=True),
    "an empty cache salt": chat(cache_salt=""),
    "a conversation beyond the context": chat(messages=[{"role": "user", "content": "word " * 5000}]),
    "the same, streamed": chat(messages=[{"role": "user", "content": "word " * 5000}], stream=True),
    "ids beyond the context": text(prompt=[300] * 5000),
    "ids that fill the context": text(prompt=[300] * CONTEXT_TOKENS),
    "no prompt": text(prompt="left out"),
    "an empty prompt": text(prompt=""),
    "an empty list of prompts": text(prompt=[]),
    "an id out of the vocabulary": text(prompt=[999_999]),
    "a prompt of a wrong type": text(prompt=5),
    "nothing to tokenize": ("/tokenize", {"model": "tiny"}),
    "tokenize for an unknown model": ("/tokenize", {"model": "nope", "prompt": "x"}),
    "nothing to detokenize": ("/detokenize", {"model": "tiny"}),
    "detokenize for an unknown model": ("/detokenize", {"model": "nope", "tokens": IDS}),
}

RAW = {
    "malformed JSON": "{not json",
    "a list": "[1]",
    "nothing": "",
    "JSON cut short": '{"model": "tiny", "messages": [',
}


@pytest.mark.parametrize("name", SERVED)
def test_what_is_served_has_the_same_shape(name, simulated, real):
    path, body = SERVED[name]
    headers = {"endpoint-load-metrics-format": "json"}
    assert described(simulated.post(path, json=body, headers=headers)) == described(
        real.post(path, json=body, headers=headers)
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_in_the_same_words(name, simulated, real):
    path, body = REFUSED[name]
    ours, theirs = simulated.post(path, json=body), real.post(path, json=body)
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
    assert ours.status_code >= 400


@pytest.mark.parametrize("name", RAW)
def test_a_body_that_is_no_request_is_refused_in_the_same_words(name, simulated, real):
    headers = {"content-type": "application/json"}
    ours, theirs = (http.post(CHAT, content=RAW[name], headers=headers) for http in (simulated, real))
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())


@pytest.mark.parametrize("messages", [[{"role": "user", "content": 5}], [{"content": "x"}]], ids=["content", "role"])
def test_a_message_of_a_wrong_shape_is_refused_at_the_same_place(messages, simulated, real):
    path, body = chat(messages=messages)
    ours, theirs = (http.post(path, json=body) for http in (simulated, real))
    places = [re.sub(r"\.\w+Param", "", answer.json()["error"].pop("param")) for answer in (ours, theirs)]
    assert places[0] == places[1]
    for answer in (ours, theirs):
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (400, "Bad Request", 400)


def test_a_body_of_another_media_type_is_refused_in_the_same_words(simulated, real):
    headers = {"content-type": "text/plain"}
    ours, theirs = (http.post(CHAT, content=json.dumps(chat()[1]), headers=headers) for http in (simulated, real))
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/ping"),
        ("GET", "/version"),
        ("GET", "/v1/models"),
        ("GET", "/nope"),
        ("POST", "/nope"),
        ("POST", "/health"),
        ("GET", CHAT),
    ],
)
def test_paths_and_methods_are_answered_alike(method, path, simulated, real):
    assert described(simulated.request(method, path)) == described(real.request(method, path))


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nope", "/health", "/nope"])
def test_a_wrong_key_is_refused_alike(path, simulated, real):
    headers = {"authorization": "Bearer wrong"}
    ours, theirs = (http.get(path, headers=headers) for http in (simulated, real))
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)


def test_every_metric_is_one_of_vllms_with_its_type_and_labels(simulated, real):
    ours, theirs = (_metrics(http.get("/metrics").text) for http in (simulated, real))
    assert ours.items() <= theirs.items()
    assert {"vllm:num_requests_waiting", "vllm:generation_tokens_total", "process_start_time_seconds"} <= ours.keys()


def _metrics(page):
    """Give each family's type and the label names of its samples."""
    labels = {
        name: set(re.findall(r'(\w+)="', rest)) for name, rest in re.findall(r"^([\w:]+)(\{.*\})? ", page, re.MULTILINE)
    }
    kinds = {
        name if kind != "counter" or name.endswith("_total") else f"{name}_total": kind
        for name, kind in re.findall(r"^# TYPE ([\w:]+) (\w+)", page, re.MULTILINE)
    }
    return {name: (kind, tuple(sorted(labels.get(name, ())))) for name, kind in kinds.items()}


@pytest.mark.parametrize("make", [chat, text], ids=["chat", "text"])
def test_continuous_usage_never_falls_and_ends_at_the_final_usage(make, engine):
    path, body = make(stream=True, max_tokens=50, stream_options=USAGE)
    usages = [frame["usage"] for frame in frames(engine.post(path, json=body))]
    counts = [usage["completion_tokens"] for usage in usages]
    assert counts == sorted(counts)
    assert counts[-2:] == [50, 50]
    assert len({usage["prompt_tokens"] for usage in usages}) == 1


@pytest.mark.parametrize("cut", [1, 25, 59])
def test_a_stream_is_continued_exactly_from_its_token_ids(cut, engine):
    path, body = chat(stream=True, max_tokens=60, return_token_ids=True)
    told = frames(engine.post(path, json=body))
    whole = [token for frame in told for token in frame["choices"][0].get("token_ids") or ()]
    prompt = [*told[0]["prompt_token_ids"], *whole[:cut]]
    path, body = text(prompt=prompt, max_tokens=60 - cut, return_token_ids=True)
    assert engine.post(path, json=body).json()["choices"][0]["token_ids"] == whole[cut:]


@pytest.mark.parametrize(("tokens", "cached"), [(100, 0), (128, 0), (129, 128), (256, 128), (300, 256)])
def test_a_repeated_prompt_hits_the_same_blocks(tokens, cached, engine):
    prompt = [500 + tokens + number for number in range(tokens)]
    path, body = text(prompt=prompt, max_tokens=1)
    usages = [engine.post(path, json=body).json()["usage"]["prompt_tokens_details"] for _ in range(2)]
    assert [usage["cached_tokens"] for usage in usages] == [0, cached]


def test_engine_counters_count_a_prompt_for_each_choice_and_usage_counts_it_once(engine):
    before = scrape(engine.get("/metrics").text)
    path, body = chat(n=3, temperature=1, max_tokens=5)
    usage = engine.post(path, json=body).json()["usage"]
    wanted = before.generation_tokens_total + 15
    after = _metrics_once(engine, lambda metrics: metrics.generation_tokens_total >= wanted)
    assert after.prompt_tokens_total - before.prompt_tokens_total == 3 * usage["prompt_tokens"]
    assert after.generation_tokens_total - before.generation_tokens_total == usage["completion_tokens"] == 15


def _metrics_once(engine, is_so):
    """Read the engine's figures once *is_so*: an engine may count a moment after it has answered."""
    deadline = time.monotonic() + 10
    while not is_so(metrics := scrape(engine.get("/metrics").text)):
        assert time.monotonic() < deadline, metrics
    return metrics


def test_a_client_that_leaves_stops_its_tokens(engine):
    path, body = text(stream=True, max_tokens=2000)
    with engine.stream("POST", path, json=body) as answer:
        next(answer.iter_lines())
    metrics = _metrics_once(engine, lambda metrics: not metrics.running)
    again = scrape(engine.get("/metrics").text)
    assert again.generation_tokens_total == metrics.generation_tokens_total


def test_a_stream_that_waits_in_the_engine_has_its_status_already(engine):
    """200 says nothing of the engine's queue: headers come at once, the first frame comes with the first token."""
    path, body = text(stream=True, max_tokens=2000)
    with ExitStack() as stack:
        batch = [stack.enter_context(engine.stream("POST", path, json=body)).iter_lines() for _ in range(4)]
        for lines in batch:
            next(lines)
        fifth = stack.enter_context(engine.stream("POST", path, json=body))
        assert fifth.status_code == 200
        assert _metrics_once(engine, lambda metrics: metrics.waiting == 1).running == 4
