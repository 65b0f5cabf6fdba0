"""What an application written with OpenAI's Python SDK meets, on real vLLM workers."""

import json
import time

import httpx
import openai
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]  # two engines start within it

HELLO = [{"role": "user", "content": "Say something about rivers and sluices."}]


def test_a_plain_completion_is_answered_and_metered(client):
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=12, temperature=0)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_headers_tell_the_request_its_worker_and_its_wait(client):
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=HELLO, max_tokens=1)
    assert raw.request_id.startswith("req_")
    assert raw.headers["x-sluice-worker"] in {"worker-1", "worker-2"}
    assert int(raw.headers["x-sluice-queue-ms"]) >= 0


def test_a_stream_says_the_same_as_a_plain_answer(client):
    options = {"model": "tiny", "messages": HELLO, "max_tokens": 20, "temperature": 0}
    plain = client.chat.completions.create(**options).choices[0].message.content
    parts = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**options, stream=True)]
    assert "".join(parts) == plain


@pytest.mark.parametrize("include_usage", [True, False, None])
def test_usage_is_in_a_stream_only_if_it_was_asked_for(client, include_usage):
    options = {} if include_usage is None else {"stream_options": {"include_usage": include_usage}}
    stream = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5, stream=True, **options)
    chunks = list(stream)
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    if include_usage:
        assert [usage.completion_tokens for usage in usages] == [5]
        assert chunks[-1].choices == []
    else:
        assert usages == []
        assert all(chunk.choices for chunk in chunks)


def test_continuous_usage_is_passed_on_to_those_who_ask_for_it(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=5, stream=True, stream_options=options
    )
    counted = [chunk.usage.completion_tokens for chunk in stream]
    assert counted == sorted(counted)
    assert counted[-1] == 5
    assert len(counted) >= 3  # role, text, final: an engine that runs ahead puts several tokens into one frame


def test_fields_the_gateway_does_not_know_reach_the_engine(client):
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=3, extra_body={"return_token_ids": True, "top_k": 1}
    )
    assert len(answer.choices[0].model_extra["token_ids"]) == 3


def test_several_choices_are_all_billed(client, real):
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=HELLO, max_tokens=4, n=3)
    answer = raw.parse()
    assert len(answer.choices) == 3
    assert answer.usage.completion_tokens == 12


def test_an_unknown_model_is_404_with_the_sdks_own_error(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="nope", messages=HELLO)
    assert error.value.code == "model_not_found"
    assert error.value.param == "model"
    assert "nope" in error.value.message


@pytest.mark.parametrize("key", ["sk-sluice-wrong", "sk-of-somebody-else"])
def test_a_bad_key_is_401_and_is_not_repeated(real, key):
    client = openai.OpenAI(base_url=f"{real.gateways[0].url}/v1", api_key=key, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as error:
        client.chat.completions.create(model="tiny", messages=HELLO)
    assert error.value.code == "invalid_api_key"
    assert key not in json.dumps(error.value.body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b'{"model": "tiny"', None),
        (b'{"model": 1, "messages": []}', "model"),
        (b'{"model": "tiny", "messages": "hi"}', "messages"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": "yes"}', "stream"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": "abc"}', "max_tokens"),
    ],
)
def test_malformed_bodies_are_400_and_name_the_field(real, body, param):
    url = f"{real.gateways[0].url}/v1/chat/completions"
    answer = httpx.post(url, content=body, headers={"authorization": f"Bearer {real.key}"})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_prompt_beyond_the_context_gets_the_engines_own_400(client, real):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "river " * 4000}])
    assert "2048" in error.value.message
    assert error.value.body["type"] == "BadRequestError"


def test_a_field_only_the_engine_checks_gets_the_engines_own_400(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=-3)
    assert "temperature" in error.value.message


def test_models_are_listed(client):
    assert "tiny" in [model.id for model in client.models.list()]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("Qwen/nope")


def test_an_aborted_stream_stops_the_engine(client, real):
    """The engine's running count falls back to zero long before the stream would have ended by itself."""
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=1900, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 5
    while real.running_on_engines() > 0:
        assert time.monotonic() < deadline, "the engine went on working for a client that had left"
        time.sleep(0.05)


def test_an_aborted_plain_request_stops_the_engine(real):
    url = f"{real.gateways[0].url}/v1/chat/completions"
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 1900, "ignore_eos": True}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=body, headers={"authorization": f"Bearer {real.key}"}, timeout=1)
    deadline = time.monotonic() + 5
    while real.running_on_engines() > 0:
        assert time.monotonic() < deadline, "the engine went on working for a client that had left"
        time.sleep(0.05)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/chat/completions", 405), ("GET", "/v1/nope", 404)])
def test_wrong_paths_and_methods_answer_in_openais_form(real, method, path, status):
    answer = httpx.request(method, real.gateways[0].url + path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
