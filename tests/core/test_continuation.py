"""Cut anywhere, a stream that goes on elsewhere says the same and is counted the same; or it is not continued."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.continuable import is_continuable
from gateway.core.continuation import REPLACEMENT, Discontinued, Transcript, continuation_body
from gateway.core.request import parse_chat, parse_completion
from gateway.core.sse import UsageTracker

PROMPT = list(b"user: hi\n")
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True, "temperature": 0}


class Engine:
    """
    An engine whose tokens are bytes: it writes *answer*, after any prompt that is a beginning of it.

    It decodes as vLLM 0.32 does: it waits for whole characters, holds text back that may begin a stop string, and if
    its prompt ends inside a character writes that prompt out.
    """

    def __init__(self, answer: str, body: bytes) -> None:
        self._answer = answer.encode()
        self._asked = json.loads(body)
        self._ids = list(self._asked.get("prompt") or PROMPT)

    def frames(self, sizes, *, is_chat):
        done = len(self._ids) - len(PROMPT)
        ends = [self._answer[: done + made + 1] for made in range(self._asked["max_tokens"])]
        first = "" if _ends_whole(self._ids) else bytes(self._ids).decode(errors="ignore")
        before, shown, made, text = _decoded(self._ids[len(PROMPT) :]), 0, 0, ""
        for size in sizes:
            if made == len(ends):
                return
            is_first, start = made == 0, made
            made = min(made + size, len(ends))
            if len(_decoded(ends[made - 1])) > len(before):
                text = first + _decoded(ends[made - 1])[len(before) :]
            text, reason = self._stopped(text, made == len(ends))
            if reason == "stop":  # what a frame has behind the token that completes it is dropped
                so_far = (first + _decoded(end)[len(before) :] for end in ends[start:made])
                made = next(start + n for n, said in enumerate(so_far, 1) if self._stopped(said, False)[1])
            visible = text if reason else text[: max(shown, len(text) - self._lag)]
            ids = list(ends[made - 1][done + start :])
            yield self._frame(visible[shown:], ids, reason, made, is_first=is_first, is_chat=is_chat)
            shown = len(visible)
            if reason:
                return

    @property
    def _stops(self):
        return self._asked.get("stop") or []

    @property
    def _lag(self):
        return max(map(len, self._stops), default=1) - 1

    def _stopped(self, text, is_last):
        found = [text.index(stop) for stop in self._stops if stop in text]
        return (text[: min(found)], "stop") if found else (text, "length" if is_last else None)

    def _frame(self, text, ids, reason, made, *, is_first, is_chat):
        prompt = {"prompt_token_ids": self._ids if is_first else None}
        said = {"delta": {"content": text}} if is_chat else {"text": text, **prompt}
        usage = {"prompt_tokens": len(self._ids), "total_tokens": len(self._ids) + made, "completion_tokens": made}
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        head = {"id": f"of {len(self._ids)}", "object": kind, "created": len(self._ids), "model": "tiny"}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason, "token_ids": ids}
        frame = {**head, "choices": [choice], "usage": usage, **(prompt if is_chat else {})}
        return b"data: " + json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _decoded(ids):
    return bytes(ids).decode(errors="ignore")


def _ends_whole(ids):
    return not bytes(ids).decode(errors="replace").endswith(REPLACEMENT)


def seam_of(transcript):
    """Find the seam, with the engine's tokenizer at hand."""
    seam = transcript.seam()
    while seam.doubtful and not _ends_whole(list(seam.window)):
        seam = seam.shortened()
    return seam


def says(frames):
    """Give what a client has of *frames*: text, reason, usage, and the heads that frames had."""
    text, reason, tracker, heads = "", None, UsageTracker(1, b"{}"), set()
    for frame in frames:
        tracker.feed(frame)
        data = json.loads(frame[6:])
        heads.add((data["id"], data["object"], data["created"]))
        for choice in data["choices"]:
            text += choice["delta"]["content"] if "delta" in choice else choice["text"]
            reason = choice["finish_reason"] or reason
    return text, reason, tracker.usage, heads


answers = st.text(st.sampled_from("ab c水闸😀é\n"), min_size=1, max_size=30)
frame_sizes = st.lists(st.integers(1, 4), min_size=120, max_size=120)


@settings(max_examples=120)
@given(
    answer=answers,
    is_chat=st.booleans(),
    stop=st.lists(st.sampled_from(["b 水", "c", "\n\n", "nowhere"]), max_size=2),
    sizes=st.lists(frame_sizes, min_size=4, max_size=4),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=3),
)
def test_cut_anywhere_and_again_the_text_the_usage_and_the_heads_are_those_of_one_stream(
    answer, is_chat, stop, sizes, cuts
):
    limit = len(answer.encode())
    body = {**CHAT, "max_tokens": limit, **({"stop": stop} if stop else {})}
    body = body if is_chat else {**body, "prompt": PROMPT}
    request = (parse_chat if is_chat else parse_completion)(json.dumps(body).encode(), None, continues=True)
    whole = list(Engine(answer, request.body).frames(sizes[0], is_chat=is_chat))
    transcript, shown, frames = Transcript(request), [], whole
    for cut, size in zip(cuts, sizes[1:], strict=False):
        shown += [transcript.take(frame) for frame in frames[:cut]]
        if transcript.is_finished:
            break
        try:
            seam = seam_of(transcript)
        except Discontinued:
            return
        following = Engine(answer, continuation_body(request, seam, 4096)).frames(size, is_chat=False)
        frames = list(map(transcript.resume(seam).feed, following))
    else:
        shown += [transcript.take(frame) for frame in frames]
    assert says(shown) == says(map(Transcript(request).take, whole))
    assert b'token_ids":[' not in b"".join(shown)


def transcript_of(frames, **asked):
    request = parse_chat(json.dumps(CHAT | {"max_tokens": 20} | asked).encode(), None, continues=True)
    transcript = Transcript(request)
    for frame in frames:
        transcript.take(frame)
    return transcript, request


def chunk(ids, usage=None, **delta):
    data = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    data["choices"] = [{"index": 0, "delta": delta, "finish_reason": None, "token_ids": ids}]
    data |= {"usage": usage} if usage else {}
    return b"data: " + json.dumps(data | {"prompt_token_ids": [1, 2]}, separators=(",", ":")).encode() + b"\n\n"


def test_a_seam_lies_behind_the_last_token_whose_text_was_delivered():
    transcript, _ = transcript_of([chunk([5], content="a"), chunk([6], content=""), chunk([7], content="")])
    seam = transcript.seam()
    assert (seam.prompt, seam.kept, seam.made, seam.overlap, seam.doubtful) == ([1, 2], [5], 3, "", 0)


def test_reasoning_that_breaks_off_is_not_continued_but_the_answer_after_it_is():
    thinking = [chunk([5], reasoning="hm"), chunk([6], reasoning=" so")]
    with pytest.raises(Discontinued, match="reasoning"):
        transcript_of(thinking)[0].seam()
    assert transcript_of([*thinking, chunk([7]), chunk([8], content="42")])[0].seam().kept == [5, 6, 7, 8]


def test_an_engine_that_may_be_about_to_reason_is_not_taken_over_before_it_has_begun():
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 0}}
    with pytest.raises(Discontinued, match="reason"):
        transcript_of([chunk([5], usage=usage)])[0].seam()


def test_what_limits_the_answer_is_lowered_by_what_was_delivered():
    transcript, request = transcript_of([chunk([5], content="a")], min_tokens=3, seed=7, user="u")
    body = json.loads(continuation_body(request, transcript.seam(), 0))
    assert (body["prompt"], body["max_tokens"], body["min_tokens"], body["seed"]) == ([1, 2, 5], 19, 2, 7)
    assert not body.keys() & {"messages", "user"}


def test_a_chat_without_a_limit_goes_on_to_the_end_of_the_context_which_must_be_known():
    transcript, request = transcript_of([chunk([5], content="a")], max_tokens=None)
    assert json.loads(continuation_body(request, transcript.seam(), 4096))["max_tokens"] == 4096
    with pytest.raises(Discontinued, match="context"):
        continuation_body(request, transcript.seam(), 0)


def test_a_stream_that_lacks_only_its_end_is_ended_here():
    final = chunk([6], usage={"prompt_tokens": 2, "completion_tokens": 2}, content="b").replace(b"null,", b'"stop",', 1)
    transcript, _ = transcript_of([chunk([5], content="a"), final])
    assert transcript.is_finished
    ending = json.loads(transcript.ending()[6:])
    assert (ending["choices"], ending["usage"]["completion_tokens"]) == ([], 2)


@pytest.mark.parametrize(
    "asked",
    [
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"choice": ["a"]}},
        {"logprobs": True},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -0.5},
        {"bad_words": ["x"]},
        {"thinking_token_budget": 5},
        {"a_field_of_tomorrow": 1},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_another_engine_might_not_do_alike_is_not_continued(asked):
    assert not is_continuable(CHAT | asked, choices=1)
    request = parse_chat(json.dumps(CHAT | asked).encode(), None, continues=True)
    assert b"return_token_ids" not in request.body


def test_what_is_empty_zero_or_plain_text_hinders_nothing():
    harmless = {"tools": [], "logprobs": False, "frequency_penalty": 0, "response_format": {"type": "text"}}
    parts = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    assert is_continuable(CHAT | harmless | {"messages": parts}, choices=1)
    assert not is_continuable(CHAT, choices=2)
