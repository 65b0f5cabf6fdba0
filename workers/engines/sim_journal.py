"""
The simulated engine's own record of what it computed for whom: what a bill can be held against.

The newest entries are in memory, for `GET /sim/journal`. With `--journal FILE` every entry is a line of JSON there, in
the file before the next request is looked at: it survives the process, but not the power, as nothing is synced.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """
    What became of one generation request.

    *counted_prompt_tokens* is its share of vllm:prompt_tokens_total, *choices* is n. Of *completion_tokens* so many as
    *written_tokens* were written to the socket before the answer ended; it *is_whole* if the last of every choice was
    among them, though a crash may have kept back the usage and the end that should have followed.
    """

    request: str
    path: str
    outcome: str
    choices: int = 0
    prompt_tokens: int = 0
    counted_prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    written_tokens: int = 0
    is_whole: bool = False


class Journal:
    """Keeps the newest *entries_max* entries, and all of them in *file* if there is one. Raises OSError."""

    def __init__(self, entries_max: int, file: Path | None) -> None:
        self._entries: deque[JournalEntry] = deque(maxlen=entries_max)
        self._file = file.open("a", buffering=1, encoding="ascii") if file else None  # a line is one write

    def __iter__(self) -> Iterator[JournalEntry]:
        return iter(self._entries)

    def append(self, entry: JournalEntry) -> None:
        """Note *entry*."""
        self._entries.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(asdict(entry), separators=(",", ":")) + "\n")
