"""One generation request of the simulated engine, from its sequences' tokens to its answer's bytes."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from workers.engines.sim_api import Call
from workers.engines.sim_batch import Sequence, block_keys
from workers.engines.sim_faults import CrashKind
from workers.engines.sim_frames import (
    DONE,
    ChatFrames,
    Choice,
    CompletionFrames,
    Frames,
    Head,
    chat_body,
    completion_body,
    created_tokens,
    plain_usage,
)
from workers.engines.sim_http import Exchange, Header

CRASH_EXIT_STATUS = 70
_ERROR_EVENT = (
    'data: {"error":{"message":"EngineCore encountered an issue.",'
    '"type":"InternalServerError","param":null,"code":500}}\n\n'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """
    Break the answer off after so many tokens; *exits*: and the whole process with it.

    *how*: the connection is dropped, nothing more is said, or a stream ends with an error event.
    """

    after_tokens: int
    exits: bool
    how: CrashKind = "drop"


class Answer:
    """
    Collects the tokens of a request's choices and sends them, frame by frame or all at the end.

    While the client does not read, tokens gather as ids, at most a context length per choice, and go out in one frame
    when it reads on: so vLLM merges them too, and so a stalled client costs bounded memory.
    """

    def __init__(
        self,
        exchange: Exchange,
        call: Call,
        head: Head,
        crash: Crash | None,
        mean_tokens: int,
        stream_interval: int = 1,
    ) -> None:
        self.exchange = exchange
        self.call = call
        self.outcome = ""
        self.written_tokens = 0
        self._stream_interval = stream_interval
        self._head = head
        self._crash = crash
        self.sequences = _sequences(self, call, mean_tokens)
        self._unfinished = len(self.sequences)  # as far as their tokens have been taken
        self._fresh: list[list[int]] = [[] for _ in self.sequences]
        self._frames = _frames(call, head) if call.is_stream else None
        self._is_open = False
        self._closed: Callable[[Answer], None] = _ignore
        self.load_header: Callable[[], list[Header]] = list

    def start(self, on_close: "Callable[[Answer], None]") -> None:
        """Begin; *on_close* is called once, when the answer has ended in whatever way."""
        self._closed = on_close
        self.exchange.on_leave = self._leave
        self.exchange.on_resume = self._resume
        if self._frames is not None:
            self.exchange.start_stream()

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each counted once however many choices it has."""
        return sum(map(len, self.call.prompts))

    @property
    def completion_tokens(self) -> int:
        return sum(sequence.generated for sequence in self.sequences)

    @property
    def is_whole(self) -> bool:
        """Whether every choice has ended and all of its tokens were written."""
        return not self._unfinished and self.written_tokens == self.completion_tokens

    @property
    def cached_tokens(self) -> int:
        """As vLLM reports it: of the last prompt."""
        return self.sequences[-self.call.choices].cached

    def take(self, sequence: "Sequence[Answer]") -> None:
        """Take the token that *sequence* has just made."""
        if self.outcome:
            return  # broken off earlier in this step
        self._fresh[sequence.choice].append(sequence.last_id)
        self._unfinished -= sequence.finish_reason is not None
        if self._frames is not None and not self.exchange.is_paused and self._is_due(sequence):
            self._flush(self._frames, sequence)
        if self._crash is not None and self.completion_tokens >= self._crash.after_tokens:
            self._break_off(self._crash)
        else:
            self._end_if_done()

    def _is_due(self, sequence: "Sequence[Answer]") -> bool:
        """Tell whether a frame is due, as vLLM's `--stream-interval` has it: the first and the last go at once."""
        is_first_or_last = sequence.generated == 1 or sequence.finish_reason is not None
        return is_first_or_last or len(self._fresh[sequence.choice]) >= self._stream_interval

    def _flush(self, frames: Frames, sequence: "Sequence[Answer]") -> None:
        if not self._is_open:
            self._is_open = True
            for each in self.sequences:
                opening = frames.opening(each.choice, self._prompt(each))
                if opening:
                    self.exchange.send(opening)
        fresh = self._fresh[sequence.choice]
        self.exchange.send(frames.tokens(sequence, fresh, self._prompt(sequence)))
        self.written_tokens += len(fresh)
        fresh.clear()

    def _resume(self) -> None:
        if self._frames is None or self.outcome:
            return
        for sequence in self.sequences:
            if self._fresh[sequence.choice] and not self.exchange.is_paused:
                self._flush(self._frames, sequence)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._unfinished:
            return
        if self._frames is None:
            self.written_tokens = self.completion_tokens
            self._close("done")
            self._reply()
        elif not any(self._fresh):
            self._close("done")
            self._end_stream(self._frames)

    def _end_stream(self, frames: Frames) -> None:
        if self.call.has_usage:
            self.exchange.send(frames.usage(self.prompt_tokens, self.completion_tokens, self.cached_tokens))
        self.exchange.send(DONE)
        self.exchange.end_stream()

    def _reply(self) -> None:
        choices = [
            Choice(sequence.choice, sequence.finish_reason or "", ids, self._prompt(sequence))
            for sequence, ids in zip(self.sequences, self._fresh, strict=True)
        ]
        is_chat = self.call.kind == "chat"
        created = created_tokens(self.prompt_tokens, self.cached_tokens) if is_chat else None
        usage = plain_usage(self.prompt_tokens, self.completion_tokens, self.cached_tokens, created)
        render = chat_body if is_chat else completion_body
        body = render(self._head, choices, usage, has_token_ids=self.call.has_token_ids)
        self.exchange.reply(200, body, headers=self.load_header())

    def _break_off(self, crash: Crash) -> None:
        if crash.exits:
            os._exit(CRASH_EXIT_STATUS)
        if crash.how == "drop":
            self.exchange.drop()
        elif crash.how == "error" and self._frames is not None:
            self.exchange.send(_ERROR_EVENT + DONE)
            self.exchange.end_stream()
        self._close("crashed")

    def _leave(self) -> None:
        self._close("left")

    def _close(self, outcome: str) -> None:
        if not self.outcome:
            self.outcome = outcome
            self._closed(self)

    def _prompt(self, sequence: "Sequence[Answer]") -> list[int]:
        return self.call.prompts[sequence.choice // self.call.choices]


def head_of(call: Call, model: str, request_id: str) -> Head:
    """Give the answer's id, time and model; vLLM takes the id from the client's x-request-id."""
    prefix = "chatcmpl" if call.kind == "chat" else "cmpl"
    return Head(f"{prefix}-{request_id}", int(time.time()), model)


def _sequences(owner: Answer, call: Call, mean_tokens: int) -> list[Sequence[Answer]]:
    salt = crc32(call.cache_salt.encode()) << 32 if call.cache_salt else 0
    sequences: list[Sequence[Answer]] = []
    for prompt, max_tokens in zip(call.prompts, call.max_tokens, strict=True):
        state, keys = block_keys(prompt, salt)
        for variant in range(call.choices):
            sequences.append(
                Sequence(
                    owner=owner,
                    choice=len(sequences),
                    variant=variant,
                    prompt_tokens=len(prompt),
                    state=state,
                    keys=list(keys),
                    salt=salt,
                    max_tokens=max_tokens,
                    min_tokens=call.min_tokens,
                    mean_tokens=mean_tokens,
                )
            )
    return sequences


def _frames(call: Call, head: Head) -> Frames:
    kind = ChatFrames if call.kind == "chat" else CompletionFrames
    return kind(head, call.has_usage, call.has_continuous_usage, call.has_token_ids)


def _ignore(_: Answer) -> None:
    pass
