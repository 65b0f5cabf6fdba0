"""
A stream that outlives its worker: what was said, in token ids, and how another engine goes on from there.

An engine that is asked for token ids tells the prompt's with its first frame and each frame's own with it. So prompt
and answer so far can be given to another engine, as the prompt of a text completion, and it goes on where the first one
stopped: the same tokens under greedy decoding, tokens of the same distribution otherwise.

Where it may go on, the *seam*, is not always where the first engine stopped. A character may be cut between two tokens;
an engine whose prompt ends inside a character begins by writing that prompt out. And an engine that looks for stop
strings holds back as many characters as might begin one. So a seam lies after a token whose text has been delivered
whole, and far enough back that a stop string which is not complete lies behind it. What is then said again is left out.
"""

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from gateway.core.continuable import KEPT
from gateway.core.request import ChatRequest
from gateway.core.sse import DONE

PATH = "/v1/completions"
# Chunks of a stream that are kept as they came: a seam lies a few tokens back at most, and an engine merges tokens of
# clients that read slowly into one chunk.
TAIL_CHUNKS = 16
# The last tokens before a seam, whose text tells whether it ends in a whole character. That has four bytes at most,
# but a model may write bytes that are none.
WINDOW_TOKENS = 32
DOUBTFUL_MAX = 12
REPLACEMENT = "\ufffd"  # what stands for bytes that are no character, or not yet one

_IDS = re.compile(rb'"token_ids":\[([\d,]*)\]')
_PROMPT_IDS = re.compile(rb'"prompt_token_ids":\[([\d,]*)\]')
_NO_IDS = b'"token_ids":null'
_DATA = b"data: "

_TEXT_DELTA = frozenset({"role", "content"})


class Discontinued(Exception):  # noqa: N818  it ends a stream, by the rules
    """Nobody can go on with a stream without a word lost or doubled; the message says why."""


@dataclass(frozen=True, slots=True)
class Seam:
    """
    Where another engine goes on: after *kept*, the ids of the answer so far, behind those of the *prompt*.

    *overlap* is what it will say again, as the client has it already. *made* are all tokens of the answer that were
    seen, *doubtful* how many of *kept* might be those of an unfinished character.
    """

    prompt: Sequence[int]
    kept: Sequence[int]
    overlap: str
    made: int
    doubtful: int = 0

    @property
    def window(self) -> Sequence[int]:
        """The last ids before the seam."""
        return [*self.prompt[-WINDOW_TOKENS:], *self.kept][-WINDOW_TOKENS:]

    def shortened(self) -> "Seam":
        """Give the seam one token further back, for one whose text ends inside a character."""
        if not self.doubtful:
            raise Discontinued("no token before the failure ends with a whole character")
        return replace(self, kept=self.kept[:-1], doubtful=self.doubtful - 1)


@dataclass(frozen=True, slots=True)
class _Step:
    """A frame: its tokens, and the text it brought; *is_plain* unless it brought anything else."""

    ids: Sequence[int]
    text: str
    is_plain: bool


class Transcript:
    """
    What one stream has said so far; `take` is called for each chunk of it, so it looks at no more than it must.

    Kept are the ids as text, some five bytes a token, and the last chunks as they came.
    """

    __slots__ = ("_base", "_before", "_chunks", "_ids", "_overlap", "_prompt_ids", "_request", "_shows_ids", "_tail")

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._shows_ids = request.wants_token_ids
        self._ids = bytearray()
        self._tail: deque[bytes] = deque(maxlen=TAIL_CHUNKS)
        self._chunks = 0
        self._prompt_ids: bytes | None = None
        self._before = b""  # the last chunk of the engine that went before
        self._base = 0  # tokens before the tail's possible beginning: where the engine at work went on
        self._overlap = ""  # what that one had yet to say again

    def __repr__(self) -> str:
        return f"<Transcript [{self._chunks} chunks, {len(self._ids)} bytes of ids]>"

    def take(self, frames: bytes) -> bytes:
        """Take a run of complete frames; give them as the client is to have them: without ids it did not ask for."""
        shown = frames if self._shows_ids else None
        if self._prompt_ids is None:
            frames = self._begin(frames)
        self._chunks += 1
        self._tail.append(frames)
        parts = _IDS.split(frames)
        if len(parts) == 3:  # the usual: one frame with an id or more
            self._ids += parts[1] + b","
            return shown or parts[0] + _NO_IDS + parts[2]
        self._ids += b"".join([part + b"," for part in parts[1::2]])
        return shown or _NO_IDS.join(parts[::2])

    def _begin(self, frames: bytes) -> bytes:
        """Note the prompt's ids, which come once; give the frames without them."""
        found = _PROMPT_IDS.search(frames)
        self._prompt_ids = found[1] if found else b""
        return _PROMPT_IDS.sub(b'"prompt_token_ids":null', frames)

    @property
    def made(self) -> int:
        """Tokens of the answer that were seen."""
        return len(_numbers(self._ids))

    @property
    def is_finished(self) -> bool:
        """Whether the last token has come, and only the end of the stream is missing."""
        return any(choice.get("finish_reason") for frame in _decoded(self._tail) for choice in frame["choices"])

    def seam(self) -> Seam:
        """Find where another engine may go on. Raises Discontinued."""
        ids = _numbers(self._ids)
        lag, reach = _held_back(self._request.body)
        after, dropped = "", 0
        for step in reversed(list(self._steps())):
            if not step.is_plain:
                raise Discontinued("it broke off in the middle of reasoning or of a tool call")
            if step.text and len(after) >= reach:
                kept = ids[: len(ids) - dropped]
                doubtful = min(len(step.ids) - 1, DOUBTFUL_MAX)
                return self._checked(Seam(self._prompt(), kept, after[lag:], len(ids), doubtful))
            after = step.text + after
            dropped += len(step.ids)
        return self._checked(self._earliest(ids, after))

    def _earliest(self, ids: Sequence[int], after: str) -> Seam:
        """Give the seam where the engine at work began, at the prompt's end or at another seam."""
        if self._chunks > len(self._tail):
            raise Discontinued("no token near enough before the failure ends with a whole character")
        if not self._base and not after and self._reasons():
            raise Discontinued("it broke off before its answer began, and may have been about to reason")
        return Seam(self._prompt(), ids[: self._base], self._overlap + after, len(ids))

    def _reasons(self) -> bool:
        """Tell whether the engine tells reasoning and answer apart, as it counts the tokens of either."""
        usage = self._last_frame().get("usage") or {}
        return usage.get("completion_tokens_details") is not None

    def resume(self, seam: Seam) -> "Translation":
        """Go on from *seam*: give what turns the frames of the engine that goes on into this stream's."""
        translation = Translation(self._last_frame(), seam)
        self._before = self._tail[-1] if self._tail else self._before
        self._ids = bytearray(b"".join(b"%d," % number for number in seam.kept))
        self._tail.clear()
        self._chunks = 0
        self._base, self._overlap = len(seam.kept), seam.overlap
        return translation

    def ending(self) -> bytes:
        """Give the frame with the usage of a stream that is finished, if the engine did not come to send it."""
        frame = self._last_frame()
        if not frame["choices"]:
            return b""
        usage = frame.get("usage") or _usage(len(self._prompt()), self.made)
        return _frame({**_head_of(frame), "choices": [], "usage": usage})

    def _prompt(self) -> list[int]:
        if not self._prompt_ids:
            raise Discontinued("the engine did not tell the prompt's token ids")
        return _numbers(self._prompt_ids)

    def _checked(self, seam: Seam) -> Seam:
        if seam.overlap and not _is_greedy(json.loads(self._request.body)):
            raise Discontinued("what a sampling engine says again is not what it said before")
        if self._shows_ids and seam.made > len(seam.kept):
            raise Discontinued("token ids that the client has would be said again")
        return seam

    def _last_frame(self) -> dict[str, Any]:
        return list(_decoded([self._tail[-1] if self._tail else self._before]))[-1]

    def _steps(self) -> Iterator[_Step]:
        for frame in _decoded(self._tail):
            yield from map(_step, frame["choices"])


class Translation:
    """
    Frames of the engine that goes on, as the stream they continue: its id and kind, its usage, nothing said twice.

    The usage of an engine that goes on counts the tokens before the seam as its prompt; they are the answer's.
    """

    def __init__(self, last: Mapping[str, Any], seam: Seam) -> None:
        self._head = _head_of(last)
        self._is_chat = last["object"] == "chat.completion.chunk"
        self._details = (last.get("usage") or {}).get("completion_tokens_details")
        self._prompt_tokens = len(seam.prompt)
        self._kept = len(seam.kept)
        self._overlap = seam.overlap

    def feed(self, frames: bytes) -> bytes:
        """Translate a run of complete frames; [DONE] stays. Raises Discontinued if what is said again differs."""
        done = DONE if frames.endswith(DONE) else b""
        return b"".join(map(self._translated, _decoded([frames]))) + done

    def _translated(self, frame: dict[str, Any]) -> bytes:
        choices = list(map(self._choice, frame["choices"]))
        new = {**self._head, "choices": choices}
        if usage := frame.get("usage"):
            new["usage"] = self._usage(usage, is_last=not choices)
        if fingerprint := frame.get("system_fingerprint"):
            new["system_fingerprint"] = fingerprint
        return _frame(new)

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Translate a choice. It has its frame even if all of its text is said again, so that its tokens are noted."""
        text = self._fresh(choice["text"])
        reason, ids = choice.get("finish_reason"), choice.get("token_ids")
        if reason and self._overlap:
            raise Discontinued("the other engine ended before it had said what the first one said")
        start: dict[str, Any] = {"index": 0}
        stop = {"stop_reason": choice.get("stop_reason")}
        if self._is_chat:
            start |= {"delta": {"content": text}, "logprobs": None, "finish_reason": reason}
            return {**start, **(stop if reason else {}), "token_ids": ids}
        start |= {"text": text, "logprobs": None, "finish_reason": reason}
        return {**start, **stop, "prompt_token_ids": None, "token_ids": ids}

    def _fresh(self, text: str) -> str:
        again = min(len(text), len(self._overlap))
        if text[:again] != self._overlap[:again]:
            raise Discontinued("the other engine said something else than the first one had")
        self._overlap = self._overlap[again:]
        return text[again:]

    def _usage(self, usage: Mapping[str, Any], *, is_last: bool) -> dict[str, Any]:
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        told = _usage(self._prompt_tokens, self._kept + (usage.get("completion_tokens") or 0))
        if is_last:
            told["prompt_tokens_details"] = {"cached_tokens": min(cached, self._prompt_tokens)}
        return {**told, "completion_tokens_details": self._details} if self._is_chat else told


def continuation_body(request: ChatRequest, seam: Seam, context_tokens: int) -> bytes:
    """
    Make the body that has an engine with a context of *context_tokens* go on from *seam*. Raises Discontinued.

    A chat without a limit goes on to the end of the context, a text completion to sixteen tokens: so it is made here
    to say what the chat would have had, and engines take what fits.
    """
    data = json.loads(request.body)
    kept, max_tokens = len(seam.kept), request.max_tokens
    if max_tokens is None and not context_tokens:
        raise Discontinued("the answer has no limit, and the other worker did not tell the length of its context")
    ours = {
        "prompt": [*seam.prompt, *seam.kept],
        "max_tokens": context_tokens if max_tokens is None else max_tokens - kept,
        "min_tokens": max(0, (data.get("min_tokens") or 0) - kept),
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_token_ids": True,
        "add_special_tokens": False,
    }
    return json.dumps({name: value for name, value in data.items() if name in KEPT} | ours).encode()


def _held_back(body: bytes) -> tuple[int, int]:
    """
    Give how many characters an engine holds back for stop strings, and how far back one may begin that is not complete.

    vLLM 0.32 holds back one less than the longest has, and none if stop strings are part of the answer.
    """
    data = json.loads(body)
    stop = data.get("stop") or []
    reach = max((len(text) for text in ([stop] if isinstance(stop, str) else stop)), default=1) - 1
    return (0 if data.get("include_stop_str_in_output") else reach), reach


def _is_greedy(data: Mapping[str, Any]) -> bool:
    return data.get("temperature") == 0 or data.get("top_k") == 1


def _step(choice: Mapping[str, Any]) -> _Step:
    ids = choice.get("token_ids") or ()
    if "delta" not in choice:
        return _Step(ids, choice.get("text") or "", is_plain=True)
    delta = choice["delta"]
    is_plain = not any(value for name, value in delta.items() if name not in _TEXT_DELTA)
    return _Step(ids, delta.get("content") or "", is_plain)


def _decoded(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for chunk in chunks:
        for line in chunk.split(b"\n"):
            if line.startswith(b"data: {"):
                yield json.loads(line[len(_DATA) :])


def _numbers(text: bytes | bytearray) -> list[int]:
    return [int(number) for number in text.split(b",") if number]


def _head_of(frame: Mapping[str, Any]) -> dict[str, Any]:
    return dict(islice(((name, frame[name]) for name in ("id", "object", "created", "model")), 4))


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def _frame(data: Mapping[str, Any]) -> bytes:
    return _DATA + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass") + b"\n\n"
