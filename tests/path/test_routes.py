"""Routing on the whole path: conversations meet their prefixes again, and operators can ask why."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.core.chain import chat_chain
from tests.waiting import until
from workers.engines.sim_batch import Pace

ADMIN = {"authorization": "Bearer admin"}
OPEN = {"admin_token": "admin"}
ENGINE = {"max_model_len": 16384, "pace": Pace(prefill_tokens_per_s=200_000, inter_token_s=0.001, max_num_seqs=8)}
SECRET = "confidential"


def body(*texts, **fields):
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
    return {"model": "tiny", "messages": messages, "max_tokens": 4, "ignore_eos": True, **fields}


@asynccontextmanager
async def client_of(path):
    headers = {"authorization": f"Bearer {path.key}"}
    async with httpx.AsyncClient(base_url=path.url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


async def chat(client, *texts, headers=None, **fields):
    answer = await client.post("/v1/chat/completions", json=body(*texts, **fields), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def route(client, answer):
    return await client.get(f"/admin/v1/requests/{answer.headers['x-request-id']}/route", headers=ADMIN)


FIRST = f"{SECRET} " + "river " * 600
TURNS = (FIRST, "a lock", "and then " + "gate " * 20)
LONG = "water " * 8000  # worth to be waited for
LONG_TURNS = (LONG, "a lock", "more")


async def test_the_next_turn_finds_the_last_ones_prompt_and_says_so(start_path):
    async with start_path(count=4, engine=ENGINE, **OPEN) as path, client_of(path) as client:
        first = await chat(client, FIRST)
        second = await chat(client, *TURNS)
        assert second.headers["x-sluice-worker"] == first.headers["x-sluice-worker"]
        usage = second.json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= 512
        assert int(second.headers["x-sluice-cached-tokens"]) == usage["prompt_tokens_details"]["cached_tokens"]
        metrics = (await client.get("/metrics")).text
        for name in ("predicted_cached", "actual_cached", "cached_error"):
            assert f'sluice_routing_{name}_tokens_total{{pool="tiny"}}' in metrics


async def test_a_stream_says_in_its_headers_what_its_worker_is_expected_to_have(start_path):
    async with start_path(count=4, engine=ENGINE, **OPEN) as path, client_of(path) as client:
        assert (await chat(client, FIRST, stream=True)).headers["x-sluice-cached-tokens"] == "0"
        told = int((await chat(client, *TURNS, stream=True)).headers["x-sluice-cached-tokens"])
        assert told == pytest.approx(len(FIRST) / 4, rel=0.05)


async def test_operators_are_told_why_a_request_went_where_it_went(start_path):
    async with start_path(count=4, engine=ENGINE, **OPEN) as path, client_of(path) as client:
        await chat(client, FIRST)
        answer = await chat(client, *TURNS)
        shown = await route(client, answer)
        assert SECRET not in shown.text
        found = shown.json()
        [placed] = found["placements"]
        assert placed["worker"] == answer.headers["x-sluice-worker"] == placed["candidates"][0]["worker"]
        assert placed["candidates"][0]["source"] == "sent"
        assert placed["candidates"][0]["held_tokens"] > 800
        assert placed["why"].startswith("It was expected to answer first, in 0.")
        assert found["cached_tokens"] == int(answer.headers["x-sluice-cached-tokens"])
        assert (found["policy"], found["pool"]) == ("sluice", "tiny")


async def test_operators_are_told_whom_a_request_waited_for(start_path):
    options = {"upstream": {"credit_wait_s": 0.3}, **OPEN}
    async with start_path(count=2, engine=ENGINE, **options) as path, client_of(path) as client:
        home = (await chat(client, LONG)).headers["x-sluice-worker"]
        taken = [path.gateway._roster.working(home, 0) for _ in range(8)]
        answer = await chat(client, *LONG_TURNS)
        for working in taken:
            working.end()
        [placed] = (await route(client, answer)).json()["placements"]
        assert answer.headers["x-sluice-worker"] != home
        assert placed["waited_ms"] >= 300
        assert placed["why"].startswith(f"{home} was expected to answer sooner (")
        assert "but had no credit for" in placed["why"]


async def test_a_request_waits_for_its_home_and_is_passed_over_meanwhile(start_path):
    options = {"upstream": {"credit_wait_s": 60}, **OPEN}
    async with start_path(count=2, engine=ENGINE, **options) as path, client_of(path) as client:
        home = (await chat(client, LONG)).headers["x-sluice-worker"]
        taken = [path.gateway._roster.working(home, 0) for _ in range(8)]
        waiting = asyncio.create_task(chat(client, *LONG_TURNS))
        await until(lambda: "[1 waiting]" in repr(path.gateway._placement))
        assert (await chat(client, "something else")).headers["x-sluice-worker"] != home
        assert not waiting.done()
        taken.pop().end()
        assert (await waiting).headers["x-sluice-worker"] == home
        for working in taken:
            working.end()


async def test_a_route_that_is_not_known_here_is_said_to_be_elsewhere(start_path):
    async with start_path(count=1, **OPEN) as path, client_of(path) as client:
        answer = await client.get("/admin/v1/requests/req_1/route", headers=ADMIN)
        assert answer.status_code == 404
        assert "ask the gateway that the request's event names" in answer.json()["error"]["message"]
        assert (await client.get("/admin/v1/requests/req_1/route")).status_code == 401


async def test_a_retry_is_a_second_placement(start_path):
    async with start_path(count=2, engine=ENGINE, **OPEN) as path, client_of(path) as client:
        for engine in path.engines:
            await engine.fault(error_next=1)
        answer = await client.post("/v1/chat/completions", json=body(FIRST))
        assert answer.status_code == 502
        placements = (await route(client, answer)).json()["placements"]
        assert sorted(placed["worker"] for placed in placements) == ["w0", "w1"]


async def test_an_adapter_is_asked_only_where_it_is_loaded(start_path):
    engine = ENGINE | {"models": ("tiny", "sql-adapter")}
    async with start_path(count=4, engine=engine, **OPEN) as path, client_of(path) as client:
        declared = {"name": "sql-adapter", "pool": "tiny"}
        assert (await client.post("/admin/v1/models", json=declared, headers=ADMIN)).status_code == 201
        await path.beat(2, models=("tiny", "sql-adapter"))
        while (await client.get("/v1/models/sql-adapter")).status_code != 200:
            await asyncio.sleep(0.01)
        answers = [await chat(client, f"{number} rivers", model="sql-adapter") for number in range(8)]
        assert {answer.headers["x-sluice-worker"] for answer in answers} == {"w2"}


@pytest.mark.parametrize("named", ["header", "body"])
async def test_requests_of_one_session_meet_though_they_begin_differently(start_path, named):
    async with start_path(count=8, engine=ENGINE, **OPEN) as path, client_of(path) as client:
        headers = {"X-Session-ID": "desk 42"} if named == "header" else None
        fields = {} if named == "header" else {"prompt_cache_key": "desk 42"}
        texts = [f"{number} " + "river " * 400 for number in range(5)]
        answers = [await chat(client, text, headers=headers, **fields) for text in texts]
        assert len({answer.headers["x-sluice-worker"] for answer in answers}) == 1


async def test_a_policy_can_be_chosen(start_path):
    options = {"upstream": {"routing": "round_robin"}, **OPEN}
    async with start_path(count=3, engine=ENGINE, **options) as path, client_of(path) as client:
        answers = [await chat(client, FIRST) for _ in range(6)]
        workers = [answer.headers["x-sluice-worker"] for answer in answers]
        assert workers[:3] == workers[3:]
        assert len(set(workers)) == 3
        [placed] = (await route(client, answers[0])).json()["placements"]
        assert placed["why"] == "The policy round_robin chose it among the workers with credit."


async def test_over_two_gateways_a_turn_meets_the_cache_of_the_last_one_that_came_through_the_other(
    start_path, tmp_path
):
    async with (
        start_path(count=6, engine=ENGINE) as one,
        start_path(count=0, home=tmp_path / "other") as two,
        client_of(one) as client,
        client_of(two) as other,
    ):
        two.engines.extend(one.engines)
        for number in range(6):
            await two.beat(number)
        met = 0
        for number in range(12):
            first = await chat(client, f"{number} " + FIRST)
            second = await chat(other, f"{number} " + FIRST, "a lock", "more")
            met += second.headers["x-sluice-worker"] == first.headers["x-sluice-worker"]
            if met == number + 1:
                assert int(second.headers["x-sluice-cached-tokens"]) >= 512
        assert met >= 10


@pytest.mark.redis
async def test_a_turn_that_went_elsewhere_than_home_is_found_by_the_gateways_that_heard_of_it(
    start_path, tmp_path, redis_url
):
    async with (
        start_path(count=6, engine=ENGINE, redis_url=redis_url) as one,
        start_path(count=0, home=tmp_path / "other", redis_url=redis_url) as two,
        client_of(one) as client,
        client_of(two) as other,
    ):
        await until(lambda: len(two.views) == 6)
        busy = [one.gateway._roster.working(f"w{number}", 0, 100_000) for number in range(3)]
        away = []
        for number in range(12):
            texts = f"{number} " + FIRST, "a lock", "more"
            worker = (await chat(client, texts[0])).headers["x-sluice-worker"]
            if worker != two.views.ring.homes(chat_chain("acme", body(texts[0])).key)[0]:
                away.append((worker, texts))
        for working in busy:
            working.end()
        assert len(away) > 3, "half of the workers are too busy to be anybody's home"
        await until(lambda: len(two.gateway._placement._router("tiny")._memory.sent) == len(away))
        for worker, texts in away:
            answer = await chat(other, *texts)
            assert answer.headers["x-sluice-worker"] == worker
            assert int(answer.headers["x-sluice-cached-tokens"]) >= 512
