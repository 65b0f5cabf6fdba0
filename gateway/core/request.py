"""
A chat request: parsed once, altered by splicing.

Only the fields the gateway acts on are looked at; all others pass through to the engine byte for byte.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from json.decoder import JSONDecoder, scanstring  # type: ignore[attr-defined]
from typing import Any

from gateway.core.media import count_media
from gateway.core.outcome import Outcome
from gateway.errors import Refused

# English text runs at about four bytes a token in Qwen's tokenizer. Routing goes by it; a bill only where an engine
# does not say what it counted (core/estimate.py).
BYTES_PER_TOKEN = 4
# What a request is taken to produce when it does not say: the mean answer in the Azure and Mooncake conversation traces
# is 211 and 343 tokens.
COMPLETION_TOKENS_GUESS = 256

_decode_value = JSONDecoder().raw_decode
_WHITESPACE = " \t\n\r"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """
    What the gateway knows of a chat completion. *body* is what goes to the engine; it is never logged.

    *answer_tokens* is how long each of its *n* answers is expected to be, *cached_share* how much of its prompt the
    engine is expected to have in its prefix cache (core/prediction.py). *images* and *audio_ms* count parts of its
    messages (core/media.py).
    """

    model: str
    is_stream: bool
    include_usage: bool
    continuous_usage: bool
    max_tokens: int | None
    n: int
    user: str | None
    body: bytes = field(repr=False)
    answer_tokens: int = COMPLETION_TOKENS_GUESS
    cached_share: float = 0.0
    images: int = 0
    audio_ms: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Estimate the tokens an engine has to prefill."""
        return round(len(self.body) // BYTES_PER_TOKEN * (1 - self.cached_share))

    @property
    def work(self) -> int:
        """Predict the tokens this request costs an engine: its prompt plus twice its completion (decode costs more)."""
        completion = min(self.answer_tokens, self.max_tokens or self.answer_tokens)
        return self.prompt_tokens + 2 * completion * self.n


def parse_chat(body: bytes, cache_salt: str | None) -> ChatRequest:
    """
    Read a chat completion and prepare the body for the engine; raise Refused(BAD_REQUEST) naming the field.

    The engine is always asked for continuous usage of a stream, so that a stream cut at any point can be billed by what
    was delivered. *cache_salt* keeps one tenant's prefix cache apart from another's; None shares it.
    """
    text, data = _decode(body)
    options = _read(data, "stream_options", dict, None) or {}
    is_stream = _read(data, "stream", bool, None) or False
    if "stream_options" in data and data["stream_options"] is not None and not is_stream:
        raise _bad("stream_options", "stream_options is only allowed with stream: true")
    changes = _changes(data, options, is_stream=is_stream, cache_salt=cache_salt)
    model = _read_model(data)
    images, audio_ms = count_media(data["messages"])
    return ChatRequest(
        model=model,
        is_stream=is_stream,
        include_usage=_read(options, "include_usage", bool, "stream_options") or False,
        continuous_usage=_read(options, "continuous_usage_stats", bool, "stream_options") or False,
        max_tokens=_read_positive(data, "max_completion_tokens") or _read_positive(data, "max_tokens"),
        n=_read_positive(data, "n") or 1,
        user=_read(data, "user", str, None),
        body=splice(text, changes).encode() if changes else body,
        images=images,
        audio_ms=audio_ms,
    )


def splice(text: str, changes: Mapping[str, Any]) -> str:
    """Set top-level members of the JSON object *text*; the bytes of every other member stay as they are."""
    added = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in changes.items()]
    kept = [member for name, member in _members(text) if name not in changes]
    return "{" + ",".join(added + kept) + "}"


def _members(text: str) -> Iterator[tuple[str, str]]:
    """List the members of the JSON object *text*, which json.loads must have accepted, as (name, source text)."""
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        start = at
        name, at = scanstring(text, at + 1)
        colon = _skip(text, at)
        _, at = _decode_value(text, _skip(text, colon + 1))
        yield name, text[start:at]
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while text[at] in _WHITESPACE:
        at += 1
    return at


def _decode(body: bytes) -> tuple[str, dict[str, Any]]:
    try:
        text = body.decode()
        data = json.loads(text)
    except UnicodeDecodeError as error:
        raise _bad(None, f"The body is not valid UTF-8: byte {error.start} cannot be read.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _bad(None, f"The body is not valid JSON: {error.msg} at {where}.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise _bad(None, f"The body cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise _bad(None, f"The body must be a JSON object, not {_type_name(data)}.")
    return text, data


def _changes(
    data: dict[str, Any], options: dict[str, Any], *, is_stream: bool, cache_salt: str | None
) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if is_stream:
        changes["stream_options"] = {**options, "include_usage": True, "continuous_usage_stats": True}
    if cache_salt is not None:
        own = _read(data, "cache_salt", str, None)
        changes["cache_salt"] = f"{cache_salt}:{own}" if own else cache_salt
    return changes


def _read_model(data: dict[str, Any]) -> str:
    model: str | None = _read(data, "model", str, None)
    if not model:
        raise _bad("model", "model is required: the name of a model as GET /v1/models lists it.")
    messages: list[Any] | None = _read(data, "messages", list, None)
    if not messages:
        raise _bad("messages", "messages is required: a list with at least one message.")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _bad(f"messages[{index}]", f"messages[{index}] must be an object, not {_type_name(message)}.")
    return model


def _read(data: dict[str, Any], name: str, kind: type, parent: str | None) -> Any:
    """Give member *name* of *data* if it is of *kind*, None if it is absent or null; else refuse, naming the field."""
    value = data.get(name)
    if value is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    param = f"{parent}.{name}" if parent else name
    raise _bad(param, f"{param} must be {_TYPE_NAMES[kind]}, not {_type_name(value)}.")


def _read_positive(data: dict[str, Any], name: str) -> int | None:
    value: int | None = _read(data, name, int, None)
    if value is not None and value < 1:
        raise _bad(name, f"{name} must be at least 1, not {value}.")
    return value


_TYPE_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    list: "a list",
    dict: "an object",
    float: "a number",
}


def _type_name(value: object) -> str:
    return "null" if value is None else _TYPE_NAMES.get(type(value), type(value).__name__)


def _bad(param: str | None, message: str) -> Refused:
    return Refused(Outcome.BAD_REQUEST, message, param=param)
