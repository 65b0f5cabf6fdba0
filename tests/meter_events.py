"""Meter events for tests: one plausible event, any field of which can be another."""

from dataclasses import replace

from gateway.core.usage import MeterEvent

PLAIN = MeterEvent(
    id="req_018bcfe5680000112233445566778899",
    tenant="acme",
    project="default",
    key="key_a",
    model="qwen3",
    pool="qwen3",
    worker="w1",
    gateway="g1",
    service_class="standard",
    outcome="completed",
    status=200,
    flag="exact",
    is_stream=True,
    attempts=1,
    arrived_ms=1_700_000_000_000,
    ended_ms=1_700_000_000_500,
    queue_ms=0,
    ttft_ms=30,
    prompt_tokens=10,
    cached_tokens=4,
    completion_tokens=20,
    reasoning_tokens=5,
    undelivered_tokens=0,
)


def event(number: int = 0, **fields) -> MeterEvent:
    """Give an event whose id is told by *number*."""
    return replace(PLAIN, **{"id": f"req_{number:032x}", **fields})


def opened(number: int = 0, **fields) -> MeterEvent:
    """Give an event as it is at dispatch: no usage, no ending."""
    empty = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"), 0)
    nothing = {"outcome": "", "status": 0, "flag": "none", "ended_ms": 0, "ttft_ms": None}
    return event(number, **{**empty, **nothing, **fields})


def usage_of(journal, from_ms, to_ms, by=(), **whose):
    """Ask *journal* for the sums over one interval."""
    return journal.usage_of_parts([(from_ms, to_ms)], by, **whose)[0]
