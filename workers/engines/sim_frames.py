"""
The simulated engine's answers as bytes: vLLM 0.32's JSON bodies and SSE frames, field by field in its order.

A frame is rendered from ready-made pieces: at 40,000 frames a second there is no time to serialise JSON.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from workers.engines.sim_batch import Sequence
from workers.engines.sim_cache import BLOCK_TOKENS
from workers.engines.sim_tokens import TEXTS

FINGERPRINT = "vllm-0.32.0-sim"
DONE = "data: [DONE]\n\n"
_FINGERPRINT_JSON = f',"system_fingerprint":"{FINGERPRINT}"'


@dataclass(frozen=True, slots=True)
class Head:
    """What all frames of an answer begin with."""

    id: str
    created: int
    model: str

    def render(self, kind: str) -> str:
        start = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return json.dumps(start, separators=(",", ":"))[:-1]


@dataclass(slots=True)
class ChatFrames:
    """Frames of a streamed chat completion; *usage* and *ids* say what the client asked for."""

    head: Head
    has_usage: bool
    has_continuous_usage: bool
    has_token_ids: bool
    _start: str = field(init=False)

    def __post_init__(self) -> None:
        self._start = f'data: {self.head.render("chat.completion.chunk")},"choices":[{{"index":'

    def opening(self, choice: int, prompt: list[int]) -> str:
        """The frame with the role, sent when the first token is there."""
        ids = _compact(prompt) if self.has_token_ids else "null"
        end = f'"prompt_token_ids":{ids},"prompt_text":null}}\n\n'
        delta = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return f"{self._start}{choice},{delta}{self._usage(len(prompt), 0)},{end}"

    def tokens(self, sequence: Sequence[Any], fresh: list[int], prompt: list[int]) -> str:  # noqa: ARG002
        """The frame with the *fresh* tokens of a choice, several if the client was slow to read."""
        reason, end = sequence.finish_reason, ""
        if reason is not None:
            end = "" if self.has_usage else _FINGERPRINT_JSON
        return (
            f'{self._start}{sequence.choice},"delta":{{"content":"{_text(fresh)}"}},"logprobs":null,"finish_reason":{_REASONS[reason]}'
            f',"token_ids":{_compact(fresh) if self.has_token_ids else "null"}}}]'
            f"{self._usage(sequence.prompt_tokens, sequence.generated)}{end}}}\n\n"
        )

    def usage(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> str:
        """The frame before [DONE], with the usage of the whole answer."""
        details = {"cached_tokens": cached_tokens, "created_cache_tokens": created_tokens(prompt_tokens, cached_tokens)}
        return _usage_frame(self.head, "chat.completion.chunk", prompt_tokens, completion_tokens, details)

    def _usage(self, prompt: int, completion: int) -> str:
        if not self.has_continuous_usage:
            return ""
        return (
            f',"usage":{{"prompt_tokens":{prompt},"total_tokens":{prompt + completion}'
            f',"completion_tokens":{completion},"completion_tokens_details":null}}'
        )


@dataclass(slots=True)
class CompletionFrames:
    """Frames of a streamed text completion."""

    head: Head
    has_usage: bool
    has_continuous_usage: bool
    has_token_ids: bool
    _start: str = field(init=False)

    def __post_init__(self) -> None:
        self._start = f'data: {self.head.render("text_completion")},"choices":[{{"index":'

    def opening(self, choice: int, prompt: list[int]) -> str:  # noqa: ARG002
        """Text completions have no frame with a role."""
        return ""

    def tokens(self, sequence: Sequence[Any], fresh: list[int], prompt: list[int]) -> str:
        """The frame with the *fresh* tokens of a choice; the first one of a choice carries its prompt's ids."""
        ids = prompt_ids = "null"
        if self.has_token_ids:
            ids = _compact(fresh)
            prompt_ids = _compact(prompt) if sequence.generated == len(fresh) else "null"
        reason = sequence.finish_reason
        usage = self._usage(sequence.prompt_tokens, sequence.generated)
        end = _FINGERPRINT_JSON if reason is not None and not self.has_usage else ""
        return (
            f'{self._start}{sequence.choice},"text":"{_text(fresh)}","logprobs":null,"finish_reason":{_PLAIN_REASONS[reason]}'
            f',"stop_reason":null,"prompt_token_ids":{prompt_ids},"token_ids":{ids}}}]{usage}{end}}}\n\n'
        )

    def usage(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> str:
        """The frame before [DONE], with the usage of the whole answer."""
        details = {"cached_tokens": cached_tokens}
        return _usage_frame(self.head, "text_completion", prompt_tokens, completion_tokens, details)

    def _usage(self, prompt: int, completion: int) -> str:
        if not self.has_continuous_usage:
            return ""
        total = prompt + completion
        return f',"usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion}}}'


Frames = ChatFrames | CompletionFrames

_PLAIN_REASONS = {None: "null", "stop": '"stop"', "length": '"length"'}
# In chat the last frame of a choice has one more field.
_REASONS = {None: "null", "stop": '"stop","stop_reason":null', "length": '"length","stop_reason":null'}


@dataclass(frozen=True, slots=True)
class Choice:
    """A finished answer to one prompt."""

    index: int
    finish_reason: str
    ids: list[int]
    prompt: list[int]


def chat_body(head: Head, choices: list[Choice], usage: dict[str, Any], *, has_token_ids: bool) -> bytes:
    """The body of a plain chat completion."""
    rendered = [
        {
            "index": choice.index,
            "message": {
                "role": "assistant",
                "content": _text(choice.ids),
                **dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning")),
            },
            "logprobs": None,
            "finish_reason": choice.finish_reason,
            "stop_reason": None,
            "token_ids": choice.ids if has_token_ids else None,
            "routed_experts": None,
        }
        for choice in choices
    ]
    end = {
        "prompt_logprobs": None,
        "prompt_token_ids": choices[0].prompt if has_token_ids else None,
        "prompt_text": None,
    }
    return _body(head, "chat.completion", rendered, usage, end)


def completion_body(head: Head, choices: list[Choice], usage: dict[str, Any], *, has_token_ids: bool) -> bytes:
    """The body of a plain text completion."""
    rendered = [
        {
            "index": choice.index,
            "text": _text(choice.ids),
            "logprobs": None,
            "finish_reason": choice.finish_reason,
            "stop_reason": None,
            "token_ids": choice.ids if has_token_ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": choice.prompt if has_token_ids else None,
            "routed_experts": None,
        }
        for choice in choices
    ]
    return _body(head, "text_completion", rendered, usage, {})


def plain_usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int, created: int | None) -> dict[str, Any]:
    """The usage of a plain answer; *created* is what chat shows as newly cached, text completions show none."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": cached_tokens,
            "created_cache_tokens": created,
            "multimodal_tokens": None,
        },
        "completion_tokens_details": None,
    }


def created_tokens(prompt_tokens: int, cached_tokens: int) -> int:
    """Tokens of the prompt's full blocks that were not cached before."""
    return max(prompt_tokens // BLOCK_TOKENS * BLOCK_TOKENS - cached_tokens, 0)


def _body(head: Head, kind: str, choices: list[dict[str, Any]], usage: dict[str, Any], end: dict[str, Any]) -> bytes:
    body = {
        "id": head.id,
        "object": kind,
        "created": head.created,
        "model": head.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage,
        **end,
        **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics")),
    }
    return json.dumps(body, separators=(",", ":")).encode()


def _usage_frame(head: Head, kind: str, prompt_tokens: int, completion_tokens: int, details: dict[str, int]) -> str:
    usage = {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": details,
    }
    rendered = json.dumps(usage, separators=(",", ":"))
    return f'data: {head.render(kind)},"choices":[],"usage":{rendered}{_FINGERPRINT_JSON}}}\n\n'


def _text(ids: list[int]) -> str:
    """The text of *ids*; plain letters and spaces, so that it needs no escapes in JSON."""
    if len(ids) == 1:
        return TEXTS[ids[0]]
    return "".join([TEXTS[token] for token in ids])


def _compact(ids: list[int]) -> str:
    return str(ids).replace(" ", "")
