"""What a client sees of limits, and that nothing is asked of a store for who has none."""

import asyncio

import pytest

from tests.servers.rules import LONG, a_limit, chat, client_of, declare


@pytest.fixture
async def limited(start_path):
    async with start_path(count=1) as path, client_of(path) as client:
        yield path, client


async def test_a_refusal_says_which_limit_whose_how_it_stands_and_when_it_clears(limited):
    path, client = limited
    await declare(path, a_limit("requests", 12))
    assert (await chat(client)).status_code == 200
    refused = await chat(client)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    limit = error["limit"]
    assert (limit["scope"], limit["subject"], limit["metric"]) == ("tenant", "acme", "requests")
    assert (limit["current"], limit["allowed"]) == (1, 12)
    assert 3 < limit["clears_in_s"] <= 5
    assert 3 < int(refused.headers["retry-after"]) <= 5


async def test_headers_say_what_is_left_as_openai_does(limited):
    path, client = limited
    await declare(path, a_limit("requests", 600), a_limit("tokens", 6000), a_limit("output_tokens", 9000))
    answer = await chat(client)
    assert answer.headers["x-ratelimit-limit-requests"] == "600"
    assert answer.headers["x-ratelimit-remaining-requests"] == "599"
    assert answer.headers["x-ratelimit-limit-tokens"] == "6000"
    assert 5000 < int(answer.headers["x-ratelimit-remaining-tokens"]) < 6000
    assert answer.headers["x-ratelimit-reset-requests"].startswith("1m")


async def test_headers_are_on_a_stream_and_on_a_refusal_too(limited):
    path, client = limited
    await declare(path, a_limit("requests", 12))
    stream = await chat(client, stream=True)
    refused = await chat(client)
    assert (stream.status_code, refused.status_code) == (200, 429)
    for answer, remaining in ((stream, "11"), (refused, "11")):
        assert answer.headers["x-ratelimit-remaining-requests"] == remaining


async def test_without_limits_there_are_no_headers_and_no_holds(limited):
    path, client = limited
    await declare(path, a_limit("requests", 12, id="lim_other", subject="other", tenant="other"))
    answer = await chat(client)
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert "[0 under way, 0 unshipped]" in repr(path.gateway._holds)


async def test_a_refused_request_leaves_a_denial_and_costs_nothing(limited):
    path, client = limited
    await declare(path, a_limit("requests", 12))
    for _ in range(3):
        await chat(client)
    outcomes = sorted(event["outcome"] for event in (await path.events()).values())
    assert outcomes == ["completed", "limited", "limited"]


async def test_a_request_that_the_engine_refuses_does_not_count(limited):
    path, client = limited
    await declare(path, a_limit("requests", 12), a_limit("concurrent", 1))
    assert (await chat(client, max_tokens=1_000_000)).status_code == 400
    assert (await chat(client)).status_code == 200


async def test_a_place_at_once_is_free_when_the_client_leaves(limited):
    path, client = limited
    await declare(path, a_limit("concurrent", 1))
    async with client.stream("POST", "/v1/chat/completions", json=LONG) as stream:
        parts = stream.aiter_bytes()  # the answer is hung up on when nobody holds this any more
        await anext(parts)
        assert (await chat(client)).status_code == 429
    async with asyncio.timeout(5):
        while (await chat(client)).status_code != 200:
            await asyncio.sleep(0.02)


async def test_tokens_are_corrected_to_what_was_used(limited):
    path, client = limited
    await declare(path, a_limit("output_tokens", 6000))
    for _ in range(3):
        answer = await chat(client)
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(6000 - 2 * 20 - 20)


async def test_the_limit_of_a_key_binds_that_key_alone(limited):
    path, client = limited
    await declare(path, a_limit("requests", 12, scope="key", subject="key_of_nobody"))
    for _ in range(3):
        assert (await chat(client)).status_code == 200


async def test_the_limit_of_one_model_leaves_others_alone(limited):
    path, client = limited
    await declare(path, a_limit("requests", 12, model="large"))
    for _ in range(3):
        assert (await chat(client)).status_code == 200


@pytest.mark.redis
async def test_limits_are_one_over_gateways_that_share_redis(start_path, redis_url):
    async with start_path(count=1, redis_url=redis_url) as path, client_of(path) as client:
        await declare(path, a_limit("requests", 60))
        answers = await asyncio.gather(*(chat(client) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 15
