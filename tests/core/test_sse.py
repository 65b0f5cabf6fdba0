"""Frames are cut, stripped and metered on raw bytes; these claims keep that safe."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.sse import (
    _ROLE,
    DONE,
    FrameBuffer,
    UsageTracker,
    answer_event,
    has_only_role,
    last_usage,
    strip_usage,
)
from gateway.core.usage import Usage


def frame(content="x", usage=None, index=0, **more):
    data = {"id": "1", "choices": [{"index": index, "delta": {"content": content}, "finish_reason": None}]}
    if usage is not None:
        data["usage"] = usage
    return b"data: " + json.dumps(data | more, separators=(",", ":")).encode() + b"\n\n"


def final_frame(usage):
    data = {"id": "1", "choices": [], "usage": usage, "system_fingerprint": "f"}
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def counts(prompt, completion):
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "completion_tokens_details": None,
    }


REQUEST = json.dumps({"messages": [{"role": "user", "content": "four bytes each"}]}).encode()

TRAPS = [
    ',"usage":{"prompt_tokens":9}',
    '","usage":{',
    'data: {"error": 1}\n\n',
    '"choices":[],"usage":{}',
    "data: [DONE]\n\n",
]
texts = st.one_of(st.text(), st.sampled_from(TRAPS))


@given(st.lists(st.tuples(texts, st.integers(0, 500)), max_size=8), st.integers(1, 50))
def test_frames_come_out_whole_and_in_order_however_the_bytes_are_cut(parts, step):
    whole = b"".join(frame(text, counts(3, tokens)) for text, tokens in parts) + DONE
    buffer = FrameBuffer()
    out = b""
    for at in range(0, len(whole), step):
        frames = buffer.feed(whole[at : at + step])
        assert not frames or frames.endswith(b"\n\n")
        out += frames
    assert out == whole
    assert not buffer.has_rest


@given(texts, st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_usage_is_found_whatever_the_model_wrote(text, prompt, completion):
    assert last_usage(frame(text, counts(prompt, completion))) == Usage(prompt=prompt, completion=completion)
    assert last_usage(frame(text)) is None


@given(st.lists(texts, min_size=1, max_size=5))
def test_stripping_gives_the_frames_an_engine_sends_without_continuous_usage(contents):
    with_usage = b"".join(frame(text, counts(3, at)) for at, text in enumerate(contents))
    without = b"".join(frame(text) for text in contents)
    final = final_frame(counts(3, 5))
    assert strip_usage(with_usage, keep_final=False) == without
    assert strip_usage(with_usage + final, keep_final=True) == without + final
    assert strip_usage(with_usage + final, keep_final=False) == without


def test_usage_in_the_middle_of_a_frame_is_cut_cleanly():
    first = frame("", counts(3, 0), prompt_token_ids=[1, 2])
    assert b'"finish_reason":null}],"prompt_token_ids":[1,2]' in strip_usage(first, keep_final=False)


def test_the_opening_frame_is_told_from_content():
    opening = (
        b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    )
    assert has_only_role(opening)
    assert not has_only_role(opening + frame("x"))
    assert not has_only_role(frame(_ROLE.decode()))
    assert not has_only_role(frame(""))


def test_details_are_read_and_may_be_missing():
    usage = counts(300, 7) | {
        "prompt_tokens_details": {"cached_tokens": 256},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    assert last_usage(final_frame(usage)) == Usage(prompt=300, completion=7, cached=256, reasoning=4)


def test_several_choices_are_added_up_until_the_final_frame_says_the_sum():
    tracker = UsageTracker(2, REQUEST)
    tracker.feed(frame("a", counts(5, 3), index=0) + frame("b", counts(5, 2), index=1))
    assert tracker.usage == Usage(prompt=5, completion=5)
    tracker.feed(frame("a", counts(5, 4), index=0))
    assert tracker.usage == Usage(prompt=5, completion=6)
    tracker.feed(final_frame(counts(5, 7)))
    assert tracker.usage == Usage(prompt=5, completion=7)


@pytest.mark.parametrize("chunk", [b"", b"data: {", b": comment\n\n", DONE])
def test_frames_without_usage_change_nothing(chunk):
    tracker = UsageTracker(1, REQUEST)
    tracker.feed(frame("a", counts(5, 3)))
    assert tracker.feed(chunk) == Usage(prompt=5, completion=3)
    assert strip_usage(chunk, keep_final=False) == chunk


@pytest.mark.parametrize(
    ("status", "body", "event"),
    [
        (400, b'{\n "error": {"message": "no"}\n}', b'data: {"error": {"message": "no"}}\n\n'),
        (400, b'{"error": {"message": "\xc3\xbc"}, "id": 1}', 'data: {"error": {"message": "ü"}}\n\n'.encode()),
        (
            404,
            b"<html>\n\n</html>",
            b'data: {"error": {"message": "<html>\\n\\n</html>", "type": null, "param": null, "code": 404}}\n\n',
        ),
        (200, b'{"id": 1}', b'data: {"id": 1}\n\n' + DONE),
    ],
)
def test_a_whole_answer_becomes_the_last_event_of_a_stream_that_has_begun(status, body, event):
    assert answer_event(status, body) == event


def test_usage_with_counts_of_images_is_found():
    """An engine of vLLM puts a third level there, for requests with images: nothing of it may hide the usage."""
    usage = counts(300, 7) | {"prompt_tokens_details": {"cached_tokens": 256, "multimodal_tokens": {"image": 196}}}
    assert last_usage(final_frame(usage)) == Usage(prompt=300, completion=7, cached=256)
    assert strip_usage(frame("a", usage), keep_final=False) == frame("a")


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(prompt=5, cached=5)),
        ({"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 9}}, Usage(0, 5, 0, 5)),
        ({"prompt_tokens": -5, "completion_tokens": "7"}, Usage()),
        ({"prompt_tokens_details": 5}, Usage()),
    ],
)
def test_a_usage_that_cannot_be_is_taken_for_the_nearest_that_can(told, taken):
    assert last_usage(final_frame(told)) == taken


def test_an_engine_without_usage_is_counted_by_its_text():
    """Four bytes are a token, of the prompt (15) as of the answer; the same for a stream cut anywhere."""
    tracker = UsageTracker(1, REQUEST)
    tracker.feed(frame(""))
    assert (tracker.usage, tracker.is_estimated) == (Usage(), False)
    tracker.feed(frame("abc") + frame("de"))
    assert (tracker.usage, tracker.is_estimated) == (Usage(prompt=4, completion=2), True)
    tracker.feed(frame("水闸"))
    assert tracker.usage == Usage(prompt=4, completion=3)
    whole = UsageTracker(1, REQUEST)
    message = {"role": "assistant", "content": "abcde水闸"}
    whole.take_answer(json.dumps({"choices": [{"message": message}]}).encode())
    assert (whole.usage, whole.is_estimated) == (tracker.usage, True)


def test_tool_calls_and_reasoning_are_text_too_and_count_once():
    call = {"index": 0, "function": {"name": "open", "arguments": '{"gate": 1}'}}
    data = {"choices": [{"delta": {"tool_calls": [call], "reasoning": "abcd", "reasoning_content": "abcd"}}]}
    tracker = UsageTracker(1, REQUEST)
    tracker.feed(b"data: " + json.dumps(data).encode() + b"\n\n")
    assert tracker.usage == Usage(prompt=4, completion=5)


def test_a_usage_that_comes_at_the_end_replaces_the_estimate():
    for final in (
        final_frame(counts(5, 3)),
        b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}\n\n',
    ):
        tracker = UsageTracker(1, REQUEST)
        tracker.feed(frame("a long text without usage"))
        tracker.feed(final)
        assert (tracker.usage, tracker.is_estimated) == (Usage(prompt=5, completion=3), False)


def test_a_whole_answer_may_be_written_with_spaces():
    tracker = UsageTracker(1, REQUEST)
    body = {"choices": [{"message": {"content": "abc"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
    tracker.take_answer(json.dumps(body, indent=1).encode())
    assert (tracker.usage, tracker.is_estimated) == (Usage(prompt=5, completion=3), False)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_answer_count_nothing_and_break_nothing(data):
    tracker = UsageTracker(1, REQUEST)
    tracker.take_answer(data)
    tracker.feed(frame("\ud800"))
    tracker.feed(b"data: " + data + b"\n\n")
    assert tracker.usage.completion <= len(data) + 1
