"""What a client reads in a stream, however the bytes are cut."""

import pytest

from gateway.commands.drill.events import Content, Done, EventReader, Failure, Place, Usage, read_event

STREAM = (
    b": queue position=12 eta_s=34.5 waiting=120 id=req_1\n\n"
    b":\n\n"
    b'event: queue\ndata: {"object":"queue.place","id":"req_1","position":3,"eta_s":7,"waiting":120}\n\n'
    b'data: {"id":"x","choices":[{"index":0,"delta":{"content":" gate"},"finish_reason":null}]}\n\n'
    b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}\n\n'
    b"data: [DONE]\n\n"
)


def shown(events) -> list:
    return [type(event) if isinstance(event, Content | Done) else event for event in events]


@pytest.mark.parametrize("size", [1, 2, 7, 64, len(STREAM)])
def test_the_same_events_are_read_from_any_pieces(size):
    reader = EventReader()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    events = shown(event for piece in pieces for event in reader.feed(piece))
    assert events == [Place(12, 34.5), Place(3, 7.0), Content, Usage(5, 7), Done]


@pytest.mark.parametrize(
    "line", [b": queue position=4 eta_s=unknown", b": queue position=4", b": queue eta_s= position=4"]
)
def test_an_eta_that_is_not_known_is_none(line):
    assert read_event(line) == Place(4, None)


def test_an_error_event_has_its_code():
    event = read_event(b'data: {"error": {"message": "m", "type": "rate_limit_error", "code": "too_late"}}')
    assert event == Failure("too_late", "rate_limit_error")


@pytest.mark.parametrize("block", [b": ping", b"event: other\ndata: {}", b"retry: 5", b'data: {"error": "no form"}'])
def test_what_says_nothing_is_passed_over(block):
    assert read_event(block) is None
