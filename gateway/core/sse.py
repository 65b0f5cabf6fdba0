"""
Server-sent events as engines frame them: what to cut, what to keep, and the usage inside.

Frames are forwarded as the bytes they came in; nothing is parsed but the last usage of each chunk. The patterns are
safe on raw bytes because a quote inside a JSON string is always escaped: the bytes `,"usage":{` and `data: {"error"`
cannot occur in text that a model wrote.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from gateway.core import estimate
from gateway.core.usage import Usage

DONE = b"data: [DONE]\n\n"
ERROR_PREFIX = b'data: {"error"'

# A usage object nests two levels: its `*_tokens_details`, and therein what vLLM counts of each kind of image or audio.
_LEAF = rb"\{[^{}]*\}"
_DETAILS = rb"\{[^{}]*(?:" + _LEAF + rb"[^{}]*)*\}"
_OBJECT = rb"\{[^{}]*(?:" + _DETAILS + rb"[^{}]*)*\}"
_USAGE = re.compile(rb',"usage":(' + _OBJECT + rb"|null)")
# The frame that OpenAI's `include_usage` adds: no choices, only usage.
_USAGE_FRAME = re.compile(rb'data: [^\n]*"choices":\[\],"usage":\{[^\n]*\n\n')

_CHOICE_USAGE = re.compile(
    rb'"choices":\[\{"index":(\d+),[^\n]*,"usage":\{[^\n]*?"prompt_tokens":(\d+)[^\n]*?"completion_tokens":(\d+)'
)


# The frame with which a chat stream begins: it says who speaks, and nothing yet.
_ROLE = b'"delta":{"role":"assistant","content":""}'


def has_only_role(frames: bytes) -> bool:
    """Tell whether *frames* is nothing but the frame that opens a chat stream, before any content."""
    return frames.count(b"\n\n") == 1 and _ROLE in frames


class FrameBuffer:
    """Cuts a byte stream at frame borders. Holds at most one unfinished frame."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """Give the complete frames that *chunk* finishes, as one run of bytes; may be empty."""
        if not self._rest and chunk.endswith(b"\n\n"):
            return chunk
        whole = self._rest + chunk
        end = whole.rfind(b"\n\n") + 2
        if end == 1:  # not found
            self._rest = whole
            return b""
        self._rest = whole[end:]
        return whole[:end]

    @property
    def has_rest(self) -> bool:
        """Tell whether an unfinished frame is held: at the end of a stream it means that the engine broke off."""
        return bool(self._rest)


class UsageTracker:
    """
    Follows the cumulative usage of one stream through its frames.

    With several choices (*n* > 1, to all *prompts* together) an engine's continuous usage counts the prompt and the
    completion of the frame's own choice only, so they are added up here; the final usage frame carries the sum and
    replaces it. As long as the engine has told no usage at all, the text of its frames is counted instead, and
    *is_estimated*; *body* is the request, for its prompt.
    """

    __slots__ = (
        "_body",
        "_by_choice",
        "_by_prompt",
        "_choices_each",
        "_has_choices",
        "_prompt_tokens",
        "_text_bytes",
        "is_estimated",
        "usage",
    )

    def __init__(self, n: int, body: bytes, prompts: int = 1) -> None:
        self.usage = Usage()
        self.is_estimated = False
        self._has_choices = n > 1
        self._choices_each = n // prompts
        self._by_choice: dict[int, int] = {}
        self._by_prompt: dict[int, int] = {}
        self._body = body
        self._prompt_tokens: int | None = None
        self._text_bytes = 0

    def feed(self, frames: bytes) -> Usage:
        """Take a run of complete frames; give the usage up to their end."""
        latest = last_usage(frames)
        if latest is not None:
            self.usage = self._sum(frames, latest) if self._has_choices else latest
            self.is_estimated = False
        elif self.is_estimated or not self.usage.total:
            self._look_into(estimate.events(frames), "delta")
        return self.usage

    def take_answer(self, body: bytes) -> Usage:
        """Take a whole answer; give its usage."""
        told = last_usage(body)
        if told is not None:
            self.usage = told
        else:
            self._look_into([estimate.decode(body)], "message")
        return self.usage

    def _look_into(self, answers: Iterable[dict[str, Any]], part: str) -> None:
        """Take what is not written as vLLM writes: a usage with other spaces, or none, and then the text."""
        for answer in answers:
            usage = answer.get("usage")
            if isinstance(usage, dict) and (part == "message" or not answer.get("choices")):
                self.usage, self.is_estimated = usage_from_json(usage), False
                return
            self._estimate(estimate.text_bytes(answer, part))

    def _estimate(self, text_bytes: int) -> None:
        """Count so much more text, and from the first of it on the prompt."""
        self._text_bytes += text_bytes
        if not self._text_bytes:
            return
        if self._prompt_tokens is None:
            self._prompt_tokens = estimate.prompt_tokens(self._body)
        self.usage = Usage(prompt=self._prompt_tokens, completion=estimate.tokens(self._text_bytes))
        self.is_estimated = True

    def _sum(self, frames: bytes, latest: Usage) -> Usage:
        if _USAGE_FRAME.search(frames):
            return latest
        for choice, prompt, completion in _CHOICE_USAGE.findall(frames):
            self._by_choice[int(choice)] = int(completion)
            self._by_prompt[int(choice) // self._choices_each] = int(prompt)
        return replace(latest, prompt=sum(self._by_prompt.values()), completion=sum(self._by_choice.values()))


def last_usage(body: bytes) -> Usage | None:
    """Read the last usage object in *body*, a run of frames or a whole JSON answer; None if there is none."""
    match = None
    for match in _USAGE.finditer(body):  # noqa: B007  only the last one counts
        pass
    if match is None or match[1] == b"null":
        return None
    return usage_from_json(json.loads(match[1]))


def usage_from_json(data: dict[str, Any]) -> Usage:
    """
    Turn an OpenAI usage object into ours; what is missing, null or no count is zero.

    A part is never more than its whole, whatever the engine says: the rest would be billed at a negative count.
    """
    prompt, completion = _count(data, "prompt_tokens"), _count(data, "completion_tokens")
    return Usage(
        prompt=prompt,
        completion=completion,
        cached=min(prompt, _count(data.get("prompt_tokens_details"), "cached_tokens")),
        reasoning=min(completion, _count(data.get("completion_tokens_details"), "reasoning_tokens")),
    )


def _count(data: Any, name: str) -> int:
    value = data.get(name) if isinstance(data, dict) else None
    return max(0, value) if isinstance(value, int) else 0


def strip_usage(frames: bytes, *, keep_final: bool) -> bytes:
    """
    Cut the usage out of every frame that has choices; cut the final usage frame too unless *keep_final*.

    That turns a stream with `continuous_usage_stats` into the one the client asked for, with `include_usage` or not.
    """
    if b'"usage":' not in frames:
        return frames
    if b'"choices":[]' not in frames:
        return _USAGE.sub(b"", frames)
    if not keep_final:
        return _USAGE.sub(b"", _USAGE_FRAME.sub(b"", frames))
    final = _USAGE_FRAME.search(frames)
    if final is None:
        return frames
    return _USAGE.sub(b"", frames[: final.start()]) + final[0] + frames[final.end() :]


def error_event(body: bytes) -> bytes:
    """Frame an OpenAI error body as the event that ends a stream which has begun."""
    return b"data: " + body + b"\n\n"


def answer_event(status: int, body: bytes) -> bytes:
    """
    Frame a whole answer as the end of a stream that has begun.

    An engine's refusal becomes the event that SDKs raise as an error, whatever form it had: a JSON error is put on one
    line, anything else is quoted. An answer that was not streamed although it was asked to be is one event and the end.
    """
    try:
        said = json.loads(body)
    except ValueError:
        said = body.decode(errors="replace")
    if status < 400:
        return b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\n\n" + DONE
    if not (isinstance(said, dict) and "error" in said):
        said = {"error": {"message": said, "type": None, "param": None, "code": status}}
    return error_event(json.dumps({"error": said["error"]}, ensure_ascii=False).encode())
