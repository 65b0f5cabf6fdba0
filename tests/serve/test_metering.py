"""A record tells those who hold money for its request what was delivered, and how it ended."""

import json

import pytest

from gateway.core.outcome import Outcome
from gateway.core.request import parse_chat
from gateway.core.roster import WorkerState
from gateway.core.routing import WorkerView
from gateway.errors import Refused
from gateway.serve.http import Call
from gateway.serve.metering import Metering, MeterRules
from gateway.stores.spool import FileSpool
from gateway.telemetry.metrics import Metrics
from tests.core.test_sse import counts, final_frame, frame

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
NOW_MS = 1_700_000_000_000


async def nobody_leaves():
    return {"type": "http.disconnect"}


@pytest.fixture
async def metering(tmp_path):
    spool = FileSpool(tmp_path, "g1")
    yield Metering(spool, Metrics(), lambda: NOW_MS, MeterRules("g1", progress_tokens=256, progress_s=5.0))
    await spool.aclose()


def dispatched(record):
    """Bring a record to where its frames come in."""
    record.request = parse_chat(BODY, None)
    models = frozenset({"m"})
    record.dispatch(WorkerView(id="w1", pool="m", models=models, url="http://127.0.0.1:1", state=WorkerState.READY))


def call_of(number):
    scope = {"method": "POST", "path": "/", "headers": []}
    return Call(scope, nobody_leaves, id=f"req_{number:032x}", arrived_ms=NOW_MS, body_bytes_max=1000)


def deliver(record, frames):
    record.observe(frames)
    record.deliver()


async def test_what_was_delivered_is_told_at_most_256_tokens_apart_and_the_end_once(metering):
    heard, ended = [], []
    async with metering.open(call_of(1)) as record:
        dispatched(record)
        record.on_progress, record.on_settled = heard.append, ended.append
        for tokens in range(1, 1001, 3):
            deliver(record, frame("a", counts(5, tokens)))
        deliver(record, final_frame(counts(5, 1000)))
        await record.settle(200)
    told = [usage.completion for usage in heard]
    assert all(later - earlier <= 256 + 3 for earlier, later in zip(told, [*told[1:], 1000], strict=True))
    assert len(told) == 4
    assert [(event.completion_tokens, event.flag) for event in ended] == [(1000, "exact")]


async def test_a_listener_may_end_the_stream_and_what_went_out_is_billed(metering):
    def refuse(usage):
        if usage.completion >= 256:
            raise Refused(Outcome.QUEUE_FULL, "The budget is used up.")

    ended = []
    with pytest.raises(Refused):
        async with metering.open(call_of(2)) as record:
            dispatched(record)
            record.on_progress, record.on_settled = refuse, ended.append
            for tokens in range(1000):
                deliver(record, frame("a", counts(5, tokens)))
    assert [(event.completion_tokens, event.flag, event.prompt_tokens) for event in ended] == [(256, "delivered", 5)]


async def test_the_end_is_told_also_of_a_request_that_no_worker_saw(metering):
    ended = []
    with pytest.raises(Refused):
        async with metering.open(call_of(3)) as record:
            record.on_settled = ended.append
            raise Refused(Outcome.QUEUE_FULL, "Full.")
    assert [(event.outcome, event.attempts, event.flag) for event in ended] == [("queue_full", 0, "none")]


async def test_more_choices_than_a_column_holds_do_not_hold_up_the_journal(metering):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 10**12}).encode()
    async with metering.open(call_of(4)) as record:
        record.request = parse_chat(body, None)
    assert record.settled.choices == 2**31 - 1
