"""
Counting tokens where an engine does not say: by the bytes of text, four to a token, rounded up.

Only for engines without usage; what is billed by it is flagged `estimated`. The same rule holds for a whole answer and
for a stream cut at any frame, so that it does not matter how frames happened to be cut.
"""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from gateway.core.request import BYTES_PER_TOKEN

_DATA = b"data: "
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


def tokens(text_bytes: int) -> int:
    """Give the tokens that so many bytes of text are taken for."""
    return -(-text_bytes // BYTES_PER_TOKEN)


def prompt_tokens(body: bytes) -> int:
    """Estimate a request's prompt from its texts, or count its token ids; images and audio are counted elsewhere."""
    data = json.loads(body)
    if "prompt" in data:
        return _plain_tokens(data["prompt"])
    return tokens(sum(_content_bytes(message.get("content")) for message in _objects(data.get("messages"))))


def _plain_tokens(prompt: Any) -> int:
    """Count a text completion's prompt: a text, a list of token ids, or a list of either."""
    if isinstance(prompt, list):
        return sum(1 if isinstance(part, int) else _plain_tokens(part) for part in prompt)
    return tokens(_bytes(prompt)) if isinstance(prompt, str) else 0


def events(frames: bytes) -> Iterator[dict[str, Any]]:
    """Decode the data of complete SSE frames; what is not a JSON object is left out."""
    for line in frames.split(b"\n"):
        if line.startswith(_DATA) and (data := decode(line[len(_DATA) :])):
            yield data


def decode(data: bytes) -> dict[str, Any]:
    """Decode a JSON object; gives an empty one for anything else."""
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def text_bytes(answer: dict[str, Any], part: str) -> int:
    """Give the bytes of text in an answer's choices; *part* is `message` of a whole one, `delta` of a stream's."""
    return sum(map(partial(_choice_bytes, part), _objects(answer.get("choices"))))


def _choice_bytes(part: str, choice: dict[str, Any]) -> int:
    text = choice.get("text")  # of a text completion
    return _bytes(text) if isinstance(text, str) else _message_bytes(choice.get(part))


def _message_bytes(message: Any) -> int:
    if not isinstance(message, dict):
        return 0
    # Some engines send one text under both names of reasoning: it counts once.
    texts = {name: message[name] for name in _TEXTS if isinstance(message.get(name), str)}
    if texts.get("reasoning") == texts.get("reasoning_content"):
        texts.pop("reasoning", None)
    return sum(map(_bytes, texts.values())) + _calls_bytes(message.get("tool_calls"))


def _calls_bytes(calls: Any) -> int:
    functions = [call.get("function") for call in _objects(calls)]
    written = (function.get(name) for function in _objects(functions) for name in ("name", "arguments"))
    return sum(_bytes(text) for text in written if isinstance(text, str))


def _content_bytes(content: Any) -> int:
    if isinstance(content, str):
        return _bytes(content)
    return sum(_bytes(text) for part in _objects(content) if isinstance(text := part.get("text"), str))


def _objects(values: Any) -> Iterable[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict)) if isinstance(values, list) else ()


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))  # JSON can write half a character
