"""
The simulated engine's language: text to token ids, and which token comes next.

The next token is a function of all ids before it, prompt and completion alike. So a prompt followed by the first k
tokens of its answer is continued exactly as the answer went on, which is what greedy decoding does in a real engine.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any
from zlib import crc32

END_OF_TEXT, TURN_START, TURN_END = 0, 1, 2
_SYLLABLES = ["".join(pair) for pair in product("bdfgklmr", "aeio")]
WORDS = [f" {first}{second}" for first, second in product(_SYLLABLES, _SYLLABLES)]  # 1024: all that is ever generated
_FIRST_WORD = 3
_FIRST_BUCKET = _FIRST_WORD + len(WORDS)
VOCABULARY_SIZE = 4096
TEXTS = ["", "", "", *WORDS, *("" for _ in range(VOCABULARY_SIZE - _FIRST_BUCKET))]
_IDS = {text: token for token, text in enumerate(WORDS, _FIRST_WORD)}
# Words are generated with a space before them, so that a text the engine wrote is read back as the same ids.
_PIECES = re.compile(r" ?\w{1,6}|\s|[^\w\s]")

_MASK = (1 << 64) - 1
_MULTIPLIER = 6364136223846793005  # Knuth's, MMIX
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


def encode(text: str) -> list[int]:
    """Give the ids of *text*: a generated word's own, and one of 3,069 buckets for any other piece."""
    known = _IDS.get
    spread = VOCABULARY_SIZE - _FIRST_BUCKET
    return [known(piece) or _FIRST_BUCKET + crc32(piece.encode()) % spread for piece in _PIECES.findall(text)]


def encode_chat(messages: Iterable[Mapping[str, Any]]) -> list[int]:
    """Give the ids of a conversation in Qwen's template, ready for the assistant's turn."""
    ids: list[int] = []
    line_end = encode("\n")
    for message in messages:
        ids += [TURN_START, *encode(f"{message['role']}\n{_text_of(message.get('content'))}"), TURN_END, *line_end]
    return [*ids, TURN_START, *encode("assistant\n")]


def _text_of(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.get("text") or "" for part in content)


def fold(state: int, ids: Iterable[int]) -> int:
    """Carry the rolling hash *state* on over *ids*; it starts at 0."""
    for token in ids:
        state = (state * _MULTIPLIER + token + 1) & _MASK
    return state


def next_id(state: int, variant: int, mean_tokens: int) -> int:
    """
    Give the token that follows everything folded into *state*.

    One in *mean_tokens* ends the turn; 0 means none does. Several answers to one prompt (n > 1) differ by *variant*.
    """
    mixed = ((state ^ (state >> 32)) + variant * _GOLDEN) * _GOLDEN & _MASK
    mixed ^= mixed >> 29
    if mean_tokens and (mixed >> 20) % mean_tokens == 0:
        return TURN_END
    return _FIRST_WORD + (mixed & 1023)
