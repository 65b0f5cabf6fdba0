"""The simulated engine from outside, over real sockets."""

import asyncio
import json
import socket
import subprocess
import sys

import httpx
import pytest

from workers.engines.sim_batch import Pace
from workers.engines.vllm import scrape

USAGE = {"include_usage": True, "continuous_usage_stats": True}


def frames(answer):
    """Give the JSON of each SSE frame; the last one must be [DONE]."""
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def token_ids(streamed):
    return [token for frame in streamed for choice in frame["choices"] for token in choice.get("token_ids") or ()]


async def test_a_stream_says_what_the_plain_answer_says(sim):
    plain = (await sim.chat(max_tokens=20)).json()
    streamed = frames(await sim.chat(max_tokens=20, stream=True))
    text = "".join(frame["choices"][0]["delta"].get("content", "") for frame in streamed)
    assert text == plain["choices"][0]["message"]["content"]
    assert plain["usage"]["completion_tokens"] == 20


async def test_continuous_usage_counts_every_token(sim):
    streamed = frames(await sim.chat(max_tokens=5, stream=True, stream_options=USAGE))
    assert [frame["usage"]["completion_tokens"] for frame in streamed] == [0, 1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize("cut", [1, 25, 59])
async def test_prompt_ids_and_a_part_of_the_answer_are_continued_exactly(sim, cut):
    chat = frames(await sim.chat(max_tokens=60, stream=True, return_token_ids=True))
    whole = token_ids(chat)
    prompt = [*chat[0]["prompt_token_ids"], *whole[:cut]]
    rest = await sim.complete(prompt=prompt, max_tokens=60 - cut, return_token_ids=True)
    assert rest.json()["choices"][0]["token_ids"] == whole[cut:]


async def test_an_answer_without_a_limit_ends_by_itself_and_so_does_its_continuation(sim):
    chat = frames(await sim.chat(stream=True, return_token_ids=True))
    whole = token_ids(chat)
    assert chat[-1]["choices"][0]["finish_reason"] == "stop"
    rest = await sim.complete(prompt=[*chat[0]["prompt_token_ids"], *whole[:5]], max_tokens=None, return_token_ids=True)
    assert rest.json()["choices"][0]["token_ids"] == whole[5:]


async def test_a_repeated_long_prompt_is_cached(sim):
    prompt = [5] * 300
    cold, warm = [(await sim.complete(prompt=prompt, max_tokens=1)).json()["usage"] for _ in range(2)]
    assert cold["prompt_tokens_details"]["cached_tokens"] == 0
    assert warm["prompt_tokens_details"]["cached_tokens"] == 256


async def test_several_choices_differ_and_their_tokens_are_summed(sim):
    answer = (await sim.chat(n=3, max_tokens=4, temperature=1)).json()
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
    assert answer["usage"]["completion_tokens"] == 12
    assert (await sim.journal())[0]["counted_prompt_tokens"] == 3 * answer["usage"]["prompt_tokens"]


async def test_metrics_agree_with_what_clients_were_told(sim):
    told = [(await sim.chat(content=f"Number {n}", max_tokens=n)).json()["usage"] for n in range(1, 6)]
    metrics = scrape((await sim.http.get("/metrics")).text)
    assert metrics.prompt_tokens_total == sum(usage["prompt_tokens"] for usage in told)
    assert metrics.generation_tokens_total == sum(usage["completion_tokens"] for usage in told) == 15
    assert metrics.running == metrics.waiting == 0
    assert metrics.started_s > 1.7e9


async def test_metrics_tell_of_the_engines_own_queue_and_of_preemptions(start_sim):
    sim = await start_sim(pace=Pace(inter_token_s=0.001, max_num_seqs=3, cache_blocks=4), max_model_len=512)
    asking = [asyncio.ensure_future(sim.complete(prompt=[5 + n] * 100, max_tokens=100)) for n in range(6)]
    await sim.until(lambda: sim.engine.batch.left_waiting == 3)
    assert scrape((await sim.http.get("/metrics")).text).waiting == sim.engine.batch.left_waiting > 0
    assert all(answer.status_code == 200 for answer in await asyncio.gather(*asking))
    metrics = scrape((await sim.http.get("/metrics")).text)
    assert metrics.preemptions_total == sim.engine.batch.counters.preemptions > 0
    assert metrics.waiting == 0


async def test_a_client_that_leaves_stops_its_tokens(start_sim):
    sim = await start_sim(pace=Pace(inter_token_s=0.01))
    async with sim.http.stream(
        "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 4000, "stream": True}
    ) as answer:
        async for _ in answer.aiter_lines():
            break
    await sim.until(lambda: sim.engine.batch.running == 0)
    [entry] = await sim.journal()
    assert entry["outcome"] == "left"
    assert entry["completion_tokens"] == sim.engine.batch.counters.generation_tokens < 100


async def test_a_client_that_leaves_before_its_turn_costs_nothing(start_sim):
    sim = await start_sim(pace=Pace(inter_token_s=0.01, max_num_seqs=1))
    first = asyncio.ensure_future(sim.complete(max_tokens=4000))
    await sim.until(lambda: sim.engine.batch.running == 1)
    second = asyncio.ensure_future(sim.complete(max_tokens=4000))
    await sim.until(lambda: sim.engine.batch.waiting == 1)
    second.cancel()
    await sim.until(lambda: sim.engine.batch.waiting == 0)
    assert (await sim.journal())[0]["counted_prompt_tokens"] == 0
    first.cancel()
    await sim.until(lambda: sim.engine.batch.running == 0)


async def test_a_stalled_client_costs_bounded_memory_and_then_gets_everything(start_sim):
    sim = await start_sim(pace=Pace(inter_token_s=0, cache_blocks=1024), max_model_len=100_000)
    body = json.dumps({"prompt": "a", "max_tokens": 40_000, "stream": True, "return_token_ids": True})
    reader, writer = await asyncio.open_connection(sock=_socket_with_little_room(sim.address), limit=1 << 16)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(f"{head}\r\nconnection: close\r\n\r\n{body}".encode())
    connection = await _connection_of(sim)
    await sim.until(lambda: not sim.engine.batch.running)  # all was generated while nobody read
    assert connection.get_write_buffer_size() < 1 << 20
    text = (await reader.read(-1)).decode()
    writer.close()
    sent = [json.loads(line.partition("data: ")[2]) for line in text.splitlines() if line.startswith('data: {"id')]
    assert sum(len(frame["choices"][0]["token_ids"]) for frame in sent) == 40_000
    assert len(sent) < 39_000, "tokens of the stall come merged"
    assert text.endswith("data: [DONE]\n\n\r\n0\r\n\r\n")


def _socket_with_little_room(address):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    client.connect(address)
    return client


async def _connection_of(sim):
    """Give the server's side of the only answer that is under way."""
    await sim.until(lambda: sim.engine.batch.running == 1)
    [sequence] = [*sim.engine.batch._prefilling, *sim.engine.batch._decoding]
    return sequence.owner.exchange._connection._transport


async def test_load_is_told_in_a_header_to_who_asks_for_it(sim):
    asked = await sim.http.post(
        "/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers={"endpoint-load-metrics-format": "json"}
    )
    load = json.loads(asked.headers["endpoint-load-metrics"].removeprefix("JSON "))
    assert load == {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}}
    assert "endpoint-load-metrics" not in (await sim.complete(max_tokens=1)).headers


async def test_the_engine_answers_with_its_first_name_to_any_of_its_names(start_sim):
    sim = await start_sim(models=("first", "second"))
    assert (await sim.complete(model="second", max_tokens=1)).json()["model"] == "first"


async def test_a_wrong_key_opens_nothing_below_v1_and_hides_nothing_else(start_sim):
    sim = await start_sim(api_key="right")
    answers = [
        (await sim.http.get(path, headers={"authorization": f"Bearer {key}"})).status_code
        for path, key in [("/v1/models", "wrong"), ("/v1/models", "right"), ("/metrics", "wrong"), ("/health", "wrong")]
    ]
    assert answers == [401, 200, 200, 200]


async def test_requests_on_one_connection_are_answered_in_order(sim):
    reader, writer = await asyncio.open_connection(*sim.address)
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /nope HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    text = (await reader.read(-1)).decode()
    writer.close()
    assert [line.split()[1] for line in text.splitlines() if line.startswith("HTTP/")] == ["200", "404"]


async def test_nonsense_on_the_wire_is_refused_and_the_connection_closed(sim):
    reader, writer = await asyncio.open_connection(*sim.address)
    writer.write(b"what is this\r\n\r\n")
    assert (await reader.read(-1)).startswith(b"HTTP/1.1 400 ")
    writer.close()


def test_the_command_prints_its_url_when_it_listens():
    with subprocess.Popen([sys.executable, "-m", "workers.engines.sim"], stdout=subprocess.PIPE, text=True) as process:
        url = json.loads(process.stdout.readline())["url"]
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        process.terminate()
        assert process.wait(10) == 0
