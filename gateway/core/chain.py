"""
The chain of a prompt: the beginnings that an engine's prefix cache may hold, hashed one on top of the other.

They end where messages end, so that each turn of a conversation begins with all of the last one, and inside a long
message at fixed places, so that a long document counts that many ask about. What stands before the messages in an
engine's prompt comes first: whose cache it is, the model, the tools. Nothing of a prompt can be read from its hashes.

Lengths are bytes of text at four to a token, as routing has them everywhere. A chain is made of every request: it costs
some 10 µs and 1 µs more for each kB of text.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from gateway.core.affinity import Chain, extend

BYTES_PER_TOKEN = 4
CUT_BYTES = 2048  # 512 tokens, a block of Mooncake's traces; some blocks of any engine
CUT_SHARE = 16  # in very long messages cuts lie a sixteenth of the way apart: 120 of them in 16 MiB
KEY_BYTES = 4096  # of the first user message: who begin alike for so long ask about one document
# Of more beginnings the first and the last count: the first are those that strangers share, the last are what the next
# turn begins with.
FIRST_MAX, LAST_MAX = 32, 96
EMPTY = Chain(0, (), ())


def chat_chain(scope: str | None, data: Mapping[str, Any]) -> Chain:
    """
    Give the chain of a chat request's body. *scope* is whose prefix cache it is; None where all tenants share one.

    Turns of one conversation have one key: that of all up to the first user message, or of `prompt_cache_key`.
    """
    before, size = _head(scope, data)
    own = _own_key(before, data)
    key, links = own, [(before, size)]
    last_turn = None if own is not None else 0
    for message in data["messages"]:
        if message.get("role") == "assistant":
            last_turn = size // BYTES_PER_TOKEN
        text = _text(message)
        if key is None and message.get("role") == "user":
            key = extend(before, text[:KEY_BYTES])
        for part in _parts(text):
            before, size = extend(before, part), size + len(part)
            links.append((before, size))
    return _chain(before if key is None else key, links, last_turn)


def prompt_chain(scope: str | None, data: Mapping[str, Any]) -> Chain:
    """Give the chain of a text completion's body, whose `prompt` is text, token ids, or a list of either."""
    before, size = _head(scope, data)
    text = _bytes(data.get("prompt"))
    key = _own_key(before, data)
    key, links = extend(before, text[:KEY_BYTES]) if key is None else key, [(before, size)]
    for part in _parts(text):
        before, size = extend(before, part), size + len(part)
        links.append((before, size))
    return _chain(key, links)


def of_session(chain: Chain, tenant: str, session: bytes) -> Chain:
    """Give *chain* with the key of a session that *tenant* named."""
    return replace(chain, key=extend(extend(0, tenant.encode()), session), last_turn=chain.last_turn or None)


def _head(scope: str | None, data: Mapping[str, Any]) -> tuple[int, int]:
    """Hash what engines put before messages, and count its bytes."""
    tools = _bytes(data["tools"]) if data.get("tools") else b""
    whose = b"shared" if scope is None else b"of " + scope.encode()
    return extend(extend(extend(0, whose), _bytes(data.get("model"))), tools), len(tools)


def _own_key(head: int, data: Mapping[str, Any]) -> int | None:
    own = data.get("prompt_cache_key")
    return extend(head, b"key " + _bytes(own)) if isinstance(own, str) and own else None


def _text(message: Mapping[str, Any]) -> bytes:
    """Give what tells one message from another; most have a role and a text and nothing else."""
    role, content = message.get("role"), message.get("content")
    if len(message) == 2 and isinstance(role, str) and isinstance(content, str):
        return f"{role}\n{content}".encode(errors="surrogatepass")  # JSON can write half a character
    return _bytes(message)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _parts(text: bytes) -> Iterable[bytes]:
    if len(text) <= CUT_BYTES:
        return (text,)
    return (text[start:end] for start, end in pairwise(_cuts(len(text))))


def _cuts(length: int) -> Iterator[int]:
    """Give where a text of *length* is cut, its ends included; the places do not depend on where it ends."""
    cut = 0
    while cut < length:
        yield cut
        cut += max(CUT_BYTES, cut // CUT_SHARE)
    yield length


def _chain(key: int, links: list[tuple[int, int]], last_turn: int | None = None) -> Chain:
    """Make the chain of (hash, bytes): without beginnings of less than a token, and with not too many in all."""
    links = [link for link in links if link[1] >= BYTES_PER_TOKEN]
    if len(links) > FIRST_MAX + LAST_MAX:
        links = links[:FIRST_MAX] + links[-LAST_MAX:]
    hashes, tokens = tuple(link[0] for link in links), tuple(link[1] // BYTES_PER_TOKEN for link in links)
    return Chain(key, hashes, tokens, last_turn)
