"""
What a client asks of the simulated engine: bodies checked, defaults applied, refusals in vLLM 0.32's own words.

The wording was taken from a running vLLM; tests/contract holds it to that.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from workers.engines.sim_tokens import VOCABULARY_SIZE, encode, encode_chat

_COMPLETION_TOKENS = 16  # vLLM's default for /v1/completions; chat goes on to the end of the context
_ERRORS_SHOWN = 10
_NOT_AN_OBJECT = "Input should be a valid dictionary or object to extract fields from"
_TokenId = Annotated[int, Field(ge=0)]


class RequestRefused(Exception):  # noqa: N818 (a refusal is an answer, not an error)
    """The answer is *status* with *error* as its body."""

    def __init__(self, status: int, message: str, error_type: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": error_type, "param": param, "code": status}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that will be served. *prompts* are token ids; each gets *choices* answers."""

    kind: Literal["chat", "completion"]
    prompts: list[list[int]]
    choices: int
    max_tokens: list[int]  # per prompt
    min_tokens: int
    may_end: bool
    has_max_tokens: bool
    is_stream: bool
    has_usage: bool
    has_continuous_usage: bool
    has_token_ids: bool
    cache_salt: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine serves: names of the model, the first of which it answers with, and the context length."""

    models: tuple[str, ...]
    max_model_len: int


class _StreamOptions(BaseModel):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str | None = None
    max_tokens: int | None = None
    n: int | None = 1
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    ignore_eos: bool = False
    min_tokens: int = 0
    return_token_ids: bool | None = None
    cache_salt: str | None = None


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None


class _ChatBody(_Body):
    messages: list[_Message]
    max_completion_tokens: int | None = None


class _CompletionBody(_Body):
    prompt: list[_TokenId] | list[list[_TokenId]] | str | list[str] | None = None
    max_tokens: int | None = _COMPLETION_TOKENS


class _TokenizeBody(BaseModel):
    model: str | None = None
    prompt: str | None = None
    messages: list[_Message] | None = None


class _DetokenizeBody(BaseModel):
    model: str | None = None
    tokens: list[_TokenId]


_DETOKENIZE = TypeAdapter(_DetokenizeBody)
_CHAT, _COMPLETION, _TOKENIZE = TypeAdapter(_ChatBody), TypeAdapter(_CompletionBody), TypeAdapter(_TokenizeBody)


def read_chat(body: bytes, limits: Limits) -> Call:
    """Read the body of POST /v1/chat/completions; raises RequestRefused."""
    chat = _validate(_CHAT, _decode(body))
    _check_stream_options(chat)
    _check_model(chat.model, limits)
    if not chat.messages:
        raise _bad("Cannot apply chat template to an empty conversation. Provide at least one message.")
    prompt = encode_chat(message.model_dump() for message in chat.messages)
    _check_length(prompt, limits, is_text=True)
    max_tokens = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    return _call("chat", chat, [prompt], max_tokens, limits)


def read_completion(body: bytes, limits: Limits) -> Call:
    """Read the body of POST /v1/completions; raises RequestRefused."""
    completion = _validate(_COMPLETION, _decode(body))
    _check_stream_options(completion)
    if completion.prompt is None or completion.prompt == "":
        raise _bad("Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)", "prompt")
    _check_model(completion.model, limits)
    prompts = _prompts(completion.prompt)
    for prompt, is_text in prompts:
        _check_vocabulary(prompt)
        _check_length(prompt, limits, is_text=is_text)
    return _call("completion", completion, [prompt for prompt, _ in prompts], completion.max_tokens, limits)


def read_tokenize(body: bytes, limits: Limits) -> list[int]:
    """Read the body of POST /tokenize and do what it asks; raises RequestRefused."""
    asked = _validate(_TOKENIZE, _decode(body))
    if asked.prompt is None and asked.messages is None:
        missing = [
            {"type": "missing", "loc": f"body.{name}", "msg": "Field required"} for name in ("prompt", "messages")
        ]
        raise _invalid([{**error, "input": _decode(body)} for error in missing])
    _check_model(asked.model, limits)
    if asked.prompt is not None:
        return encode(asked.prompt)
    return encode_chat(message.model_dump() for message in asked.messages or ())


def read_detokenize(body: bytes, limits: Limits) -> list[int]:
    """Read the body of POST /detokenize; raises RequestRefused."""
    asked = _validate(_DETOKENIZE, _decode(body))
    _check_model(asked.model, limits)
    ids: list[int] = asked.tokens
    return ids


def _call(
    kind: Literal["chat", "completion"], body: _Body, prompts: list[list[int]], max_tokens: int | None, limits: Limits
) -> Call:
    choices = body.n if body.n is not None else 1
    _check_sampling(body, choices)
    options = body.stream_options
    has_usage = bool(options and options.include_usage)
    return Call(
        kind=kind,
        prompts=prompts,
        choices=choices,
        max_tokens=[_max_tokens(max_tokens, len(prompt), limits) for prompt in prompts],
        min_tokens=body.min_tokens,
        may_end=not body.ignore_eos,
        has_max_tokens=max_tokens is not None,
        is_stream=bool(body.stream),
        has_usage=has_usage,
        has_continuous_usage=has_usage and bool(options and options.continuous_usage_stats),
        has_token_ids=bool(body.return_token_ids),
        cache_salt=body.cache_salt or "",
    )


def _max_tokens(asked: int | None, prompt_tokens: int, limits: Limits) -> int:
    if asked is not None and asked > limits.max_model_len:
        raise _bad(
            f"max_tokens={asked} cannot be greater than max_model_len={limits.max_model_len}. "
            f"Please request fewer output tokens. (parameter=max_tokens, value={asked})",
            "max_tokens",
        )
    room = limits.max_model_len - prompt_tokens
    tokens = room if asked is None else min(asked, room)
    if tokens < 1:
        raise _bad(f"max_tokens must be at least 1, got {tokens}. (parameter=max_tokens, value={tokens})", "max_tokens")
    return tokens


def _check_sampling(body: _Body, choices: int) -> None:
    temperature, top_p = body.temperature, body.top_p
    if choices < 1:
        raise _bad(f"n must be at least 1, got {choices}.")
    if temperature is not None and temperature < 0:
        named = f"(parameter=temperature, value={temperature})"
        raise _bad(f"temperature must be non-negative, got {temperature}. {named}", "temperature")
    if top_p is not None and not 0 < top_p <= 1:
        raise _bad(f"top_p must be in (0, 1], got {top_p}. (parameter=top_p, value={top_p})", "top_p")
    if temperature == 0 and choices > 1:
        raise _bad(f"n must be 1 when using greedy sampling, got {choices}.")


def _check_stream_options(body: _Body) -> None:
    if body.stream_options is not None and not body.stream:
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise _bad(message, "stream_options")
    if body.cache_salt == "":
        message = "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)"
        raise _bad(message, "cache_salt")


def _check_model(model: str | None, limits: Limits) -> None:
    if model is not None and model not in limits.models:
        message = f"The model `{model}` does not exist. Valid aliases: {', '.join(limits.models)}."
        raise RequestRefused(404, message, "NotFoundError", "model")


def _check_length(prompt: list[int], limits: Limits, *, is_text: bool) -> None:
    limit, tokens = limits.max_model_len, len(prompt)
    if tokens <= limit:
        return
    if is_text:  # vLLM stops to tokenize one token above the limit
        tokens = limit + 1
    raise _bad(
        f"This model's maximum context length is {limit} tokens. However, your prompt contains "
        f"{'at least ' if is_text else ''}{tokens} input tokens, which exceeds this limit even without any output "
        f"tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value={tokens})",
        "input_tokens",
    )


def _check_vocabulary(prompt: list[int]) -> None:
    largest = max(prompt, default=0)
    if largest >= VOCABULARY_SIZE:
        raise _bad(f"Token id {largest} is out of vocabulary")


def _prompts(prompt: Any) -> list[tuple[list[int], bool]]:
    """Give each prompt's ids, and whether they came from text."""
    if not prompt:
        raise _bad("You must pass at least one prompt")
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        prompt = [prompt]
    return [(encode(one), True) if isinstance(one, str) else (one, False) for one in prompt]


def _decode(body: bytes) -> Any:
    if not body:
        raise _invalid([{"type": "missing", "loc": "body", "msg": "Field required", "input": None}])
    try:
        return json.loads(body)
    except ValueError as error:
        position = getattr(error, "pos", 0)
        reason = {"error": getattr(error, "msg", "not UTF-8")}
        context = {"msg": "JSON decode error", "input": {}, "ctx": reason}
        raise _invalid([{"type": "json_invalid", "loc": f"body.{position}", **context}]) from error


def _validate(adapter: TypeAdapter[Any], data: Any) -> Any:
    if not isinstance(data, dict):
        raise _invalid([{"type": "model_attributes_type", "loc": "body", "msg": _NOT_AN_OBJECT, "input": data}])
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise _invalid([_as_vllm_lists(one) for one in error.errors(include_url=False)]) from error


def _as_vllm_lists(error: Any) -> dict[str, Any]:
    """Bring one of pydantic's errors into vLLM's form: a dotted place without names of types, a short input."""
    place = ".".join(["body", *(str(part) for part in error["loc"] if not _is_type_name(str(part)))])
    kind, message = error["type"], error["msg"]
    context = {"ctx": error["ctx"]} if "ctx" in error else {}
    if kind == "model_type":  # what FastAPI reports, which validates attributes
        kind, message, context = "model_attributes_type", _NOT_AN_OBJECT, {}
    return {"type": kind, "loc": place, "msg": message, "input": error["input"], **context}


def _is_type_name(part: str) -> bool:
    return "[" in part or part in {"str", "int"}


def _invalid(errors: list[dict[str, Any]]) -> RequestRefused:
    label = "error" if len(errors) == 1 else "errors"
    lines = [str({**error, "input": _short(error["input"])}) for error in errors[:_ERRORS_SHOWN]]
    if len(errors) > _ERRORS_SHOWN:
        lines.append(f"...and {len(errors) - _ERRORS_SHOWN} more {label}")
    message = "\n  ".join([f"{len(errors)} validation {label}:", *lines])
    return RequestRefused(400, message, "Bad Request", errors[0]["loc"])


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)


def _bad(message: str, param: str | None = None) -> RequestRefused:
    return RequestRefused(400, message, "BadRequestError", param)
