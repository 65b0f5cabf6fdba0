"""The books: what clients saw, what the report says and what the engines counted are the same tokens."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import openai
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]  # two engines start within it

REQUESTS = 320
ABORTS = 64
AT_ONCE = 12
COUNTED = {"include_usage": True, "continuous_usage_stats": True}


def run_one(number: int, is_aborted: bool, base_url: str, key: str) -> str:
    """Make one request with an SDK client of its own; gives how it ended for the client."""
    dice = random.Random(number)
    words = " ".join(dice.choice(["river", "gate", "water", "lock", "水闸"]) for _ in range(dice.randint(3, 300)))
    options = {
        "model": "tiny",
        "messages": [{"role": "user", "content": words}],
        "max_tokens": dice.randint(200, 400) if is_aborted else dice.randint(1, 48),
        "extra_body": {"ignore_eos": True},
    }
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=120) as client:
        if not is_aborted and dice.random() < 0.4:
            client.chat.completions.create(**options)
            return "plain"
        stream = client.chat.completions.create(**options, stream=True, stream_options=COUNTED)
        leave_after = dice.randint(1, 60) if is_aborted else None
        for count, _ in enumerate(stream, start=1):
            if count == leave_after:
                stream.close()
                return "aborted"
        return "streamed"


@pytest.fixture(scope="module")
def run(real):
    """The mixed run, with the engines' counters before and after it, and its part of the Journal."""
    from tests.servers.tap import tapped

    real.wait_shipped()
    known = set(real.events())
    before = {name: real.engine_metric(f"vllm:{name}_tokens_total") for name in ("prompt", "generation")}
    began = datetime.now(UTC)
    aborted = set(random.Random(7).sample(range(REQUESTS), ABORTS))
    with tapped(real.gateways[0].port) as tap, ThreadPoolExecutor(AT_ONCE) as threads:
        url = f"{tap.url}/v1"
        endings = Counter(threads.map(lambda n: run_one(n, n in aborted, url, real.key), range(REQUESTS)))
        deadline = time.monotonic() + 20
        while tap.open_connections or real.running_on_engines():
            assert time.monotonic() < deadline, "the last requests did not end"
            time.sleep(0.1)
        answers = dict(tap.answers)
    real.wait_shipped()
    ended = datetime.now(UTC) + timedelta(seconds=1)
    after = {name: real.engine_metric(f"vllm:{name}_tokens_total") for name in ("prompt", "generation")}
    events = {event_id: event for event_id, event in real.events().items() if event_id not in known}
    return {
        "endings": endings,
        "answers": answers,
        "events": events,
        "before": before,
        "after": after,
        "span": (began, ended),
    }


def test_all_requests_ended_as_meant(run):
    assert sum(run["endings"].values()) == REQUESTS
    assert run["endings"]["aborted"] >= 50
    assert min(run["endings"][ending] for ending in ("plain", "streamed")) > 50


def test_every_request_left_exactly_one_event(run):
    assert set(run["events"]) == set(run["answers"])
    assert len(run["events"]) == REQUESTS


def test_each_event_has_the_tokens_its_client_was_given(run):
    """Aborted streams by their rule: the last cumulative usage that went to the client."""
    for event_id, answer in run["answers"].items():
        event, seen = run["events"][event_id], answer.usage
        assert (event["prompt_tokens"], event["completion_tokens"]) == (seen.prompt, seen.completion), event
        # The event is closed before [DONE] leaves: a client that goes between the two has had all that is billed.
        has_all = answer.is_complete or b'"choices":[]' in answer.body
        assert event["flag"] == ("exact" if has_all else "delivered"), event
        assert event["outcome"] == ("completed" if has_all else "client_gone"), event


def test_the_report_is_the_sum_of_what_clients_were_given(run, real):
    began, ended = (moment.isoformat() for moment in run["span"])
    report = real.sluice_json("report", "usage", "--from", began, "--to", ended, "--group-by", "tenant,model")
    usages = [answer.usage for answer in run["answers"].values()]
    assert report["totals"]["requests"] == REQUESTS
    assert report["totals"]["prompt_tokens"] == sum(usage.prompt for usage in usages)
    assert report["totals"]["completion_tokens"] == sum(usage.completion for usage in usages)
    assert [(row["tenant"], row["model"]) for row in report["rows"]] == [("acme", "tiny")]


def test_the_engines_counted_the_same_but_for_what_nobody_received(run):
    """
    Per worker: the engine's own counters less what was billed are the tokens it made after a client had left.

    Prompts must agree to the token. Completions may exceed what was billed by the aborted streams alone.
    """
    for worker in run["after"]["prompt"]:
        own = [event for event in run["events"].values() if event["worker"] == worker]
        prompts = run["after"]["prompt"][worker] - run["before"]["prompt"][worker]
        made = run["after"]["generation"][worker] - run["before"]["generation"][worker]
        after_leaving = made - sum(event["completion_tokens"] for event in own)
        aborted = [event for event in own if event["outcome"] == "client_gone"]
        assert prompts == sum(event["prompt_tokens"] for event in own)
        assert sum(event["undelivered_tokens"] for event in own) <= after_leaving
        assert 0 <= after_leaving <= 60 * len(aborted)
        assert all(event["undelivered_tokens"] == 0 for event in own if event["outcome"] == "completed")
