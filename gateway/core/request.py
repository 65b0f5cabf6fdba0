"""
A request for a chat or a text completion: parsed once, altered by splicing.

Only the fields the gateway acts on are looked at; all others pass through to the engine byte for byte.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from json.decoder import JSONDecoder, scanstring  # type: ignore[attr-defined]
from typing import Any

from gateway.core.affinity import Chain
from gateway.core.chain import EMPTY, chat_chain, prompt_chain
from gateway.core.continuable import is_continuable
from gateway.core.media import count_media
from gateway.core.outcome import Outcome
from gateway.errors import Refused

# English text runs at about four bytes a token in Qwen's tokenizer. Routing goes by it; a bill only where an engine
# does not say what it counted (core/estimate.py).
BYTES_PER_TOKEN = 4
# What a request is taken to produce when it does not say: the mean answer in the Azure and Mooncake conversation traces
# is 211 and 343 tokens.
COMPLETION_TOKENS_GUESS = 256
# How long the answer to a text completion is that does not say, in OpenAI's API and in engines.
COMPLETION_TOKENS_DEFAULT = 16

_decode_value = JSONDecoder().raw_decode
_WHITESPACE = " \t\n\r"
_ALL_USAGE = {"include_usage": True, "continuous_usage_stats": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """
    What the gateway knows of a chat, or of a text completion. *body* is what goes to the engine; it is never logged.

    *n* counts its answers, those to all of its *prompts*; a chat has one prompt. *answer_tokens* is how long each
    answer is expected to be, *cached_share* how much of its prompt the engine is expected to have in its prefix cache
    (core/prediction.py). *images* and *audio_ms* count parts of its messages (core/media.py). Another worker may go on
    with its stream if it *is_continuable*: engines then tell token ids, even if the client *wants_token_ids* not.
    *served_as* is what engines know *model* by, if that is another name. *chain* has the beginnings of its prompt, for
    routing (core/chain.py).
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
    prompts: int = 1
    is_continuable: bool = False
    wants_token_ids: bool = False
    served_as: str = ""
    chain: Chain = field(default=EMPTY, repr=False)

    @property
    def engine_model(self) -> str:
        """The name that the engine is asked for."""
        return self.served_as or self.model

    @property
    def prompt_tokens(self) -> int:
        """Estimate the tokens an engine has to prefill."""
        return round(len(self.body) // BYTES_PER_TOKEN * (1 - self.cached_share))

    @property
    def work(self) -> int:
        """Predict the tokens this request costs an engine: its prompt plus twice its completion (decode costs more)."""
        completion = min(self.answer_tokens, self.max_tokens or self.answer_tokens)
        return self.prompt_tokens + 2 * completion * self.n


def parse_chat(body: bytes, cache_salt: str | None, *, continues: bool = False) -> ChatRequest:
    """
    Read a chat completion and prepare the body for the engine; raise Refused(BAD_REQUEST) naming the field.

    The engine is always asked for continuous usage of a stream, so that a stream cut at any point can be billed by what
    was delivered, and if the gateway *continues* streams, for the token ids of one that can be. *cache_salt* keeps one
    tenant's prefix cache apart from another's; None shares it.
    """
    text, data = _decode(body)
    fields = _read_fields(data, continues=continues, n=_read_positive(data, "n") or 1)
    _check_messages(data)
    images, audio_ms = count_media(data["messages"])
    return ChatRequest(
        **fields,
        max_tokens=_read_positive(data, "max_completion_tokens") or _read_positive(data, "max_tokens"),
        body=_prepared(body, text, data, fields, cache_salt),
        images=images,
        audio_ms=audio_ms,
        chain=chat_chain(cache_salt, data),
    )


def parse_completion(body: bytes, cache_salt: str | None, *, continues: bool = False) -> ChatRequest:
    """Read a text completion as `parse_chat` reads a chat."""
    text, data = _decode(body)
    prompts = _count_prompts(data)
    fields = _read_fields(data, continues=continues, n=(_read_positive(data, "n") or 1) * prompts)
    max_tokens = _read_at_least(data, "max_tokens", 0)  # with echo, an answer of none tells what the prompt's are
    return ChatRequest(
        **fields,
        max_tokens=COMPLETION_TOKENS_DEFAULT if max_tokens is None else max_tokens,
        body=_prepared(body, text, data, fields, cache_salt),
        prompts=prompts,
        chain=prompt_chain(cache_salt, data),
    )


def _read_fields(data: dict[str, Any], *, continues: bool, n: int) -> dict[str, Any]:
    """Read what chats and text completions share; *n* answers are asked for in all."""
    options = _read(data, "stream_options", dict, None) or {}
    is_stream = _read(data, "stream", bool, None) or False
    if "stream_options" in data and data["stream_options"] is not None and not is_stream:
        raise _bad("stream_options", "stream_options is only allowed with stream: true")
    return {
        "model": _read_model(data),
        "is_stream": is_stream,
        "include_usage": _read(options, "include_usage", bool, "stream_options") or False,
        "continuous_usage": _read(options, "continuous_usage_stats", bool, "stream_options") or False,
        "n": n,
        "user": _read(data, "user", str, None),
        "is_continuable": continues and is_stream and is_continuable(data, choices=n),
        "wants_token_ids": _read(data, "return_token_ids", bool, None) or False,
    }


def _prepared(body: bytes, text: str, data: dict[str, Any], fields: dict[str, Any], cache_salt: str | None) -> bytes:
    """Give the body for the engine."""
    changes: dict[str, Any] = {}
    if fields["is_stream"]:
        changes["stream_options"] = {**(data.get("stream_options") or {}), **_ALL_USAGE}
    if fields["is_continuable"] and not fields["wants_token_ids"]:
        changes["return_token_ids"] = True
    if cache_salt is not None:
        own = _read(data, "cache_salt", str, None)
        changes["cache_salt"] = f"{cache_salt}:{own}" if own else cache_salt
    return splice(text, changes).encode() if changes else body


def named(request: ChatRequest, model: str) -> ChatRequest:
    """Make *request* out to *model*, as its engines know what the client calls otherwise."""
    body = splice(request.body.decode(), {"model": model}).encode()
    return replace(request, served_as=model, body=body)


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


def _read_model(data: dict[str, Any]) -> str:
    model: str | None = _read(data, "model", str, None)
    if not model:
        raise _bad("model", "model is required: the name of a model as GET /v1/models lists it.")
    return model


def _check_messages(data: dict[str, Any]) -> None:
    messages: list[Any] | None = _read(data, "messages", list, None)
    if not messages:
        raise _bad("messages", "messages is required: a list with at least one message.")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _bad(f"messages[{index}]", f"messages[{index}] must be an object, not {_type_name(message)}.")


def _count_prompts(data: dict[str, Any]) -> int:
    """Count the prompts of a text completion: one text or list of token ids, or several of either."""
    prompt = data.get("prompt")
    if prompt is None or prompt in ("", []):
        raise _bad("prompt", "prompt is required: a text, a list of token ids, or a list of either.")
    if isinstance(prompt, str):
        return 1
    if not isinstance(prompt, list):
        raise _bad(
            "prompt", f"prompt must be a text, a list of token ids, or a list of either, not {_type_name(prompt)}."
        )
    for kind in (int, str, list):
        if all(isinstance(part, kind) for part in prompt):
            return 1 if kind is int else len(prompt)
    raise _bad("prompt", "prompt must be of one kind: all token ids, all texts, or all lists of token ids.")


def _read(data: dict[str, Any], name: str, kind: type, parent: str | None) -> Any:
    """Give member *name* of *data* if it is of *kind*, None if it is absent or null; else refuse, naming the field."""
    value = data.get(name)
    if value is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    param = f"{parent}.{name}" if parent else name
    raise _bad(param, f"{param} must be {_TYPE_NAMES[kind]}, not {_type_name(value)}.")


def _read_positive(data: dict[str, Any], name: str) -> int | None:
    return _read_at_least(data, name, 1)


def _read_at_least(data: dict[str, Any], name: str, least: int) -> int | None:
    value: int | None = _read(data, name, int, None)
    if value is not None and value < least:
        raise _bad(name, f"{name} must be at least {least}, not {value}.")
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
