"""Requests that come again: one that was refused or hung up while it waited keeps its age for some minutes."""

import hashlib
from collections import OrderedDict

KEPT_MS = 600_000  # as long as OpenAI's SDKs wait by default: who comes again later has begun anew
KEPT_MAX = 50_000  # some 200 bytes each


def mark(key: str, body: bytes, idempotency_key: bytes = b"") -> bytes:
    """Name a request by the digest of its key and its Idempotency-Key, or else its body; bodies are not kept."""
    return hashlib.blake2b(key.encode() + b"\0" + (idempotency_key or body), digest_size=16).digest()


class Returns:
    """
    When requests that went away without a slot came for the first time, by their marks; times are Unix ms.

    Two requests that are alike in all share one mark: then either may have the other's age, which hurts nobody.
    """

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._arrived_ms: OrderedDict[bytes, int] = OrderedDict()

    def note(self, name: bytes, arrived_ms: int) -> None:
        """Remember that the request *name*, which first came at *arrived_ms*, went away."""
        self._arrived_ms[name] = arrived_ms
        self._arrived_ms.move_to_end(name)
        if len(self._arrived_ms) > self._kept_max:
            self._arrived_ms.popitem(last=False)

    def take(self, name: bytes, now_ms: int) -> int | None:
        """Give when the request *name* first came, and forget it; None if that is not known, or too long ago."""
        arrived_ms = self._arrived_ms.pop(name, None)
        return None if arrived_ms is None or arrived_ms < now_ms - KEPT_MS else arrived_ms

    def __len__(self) -> int:
        return len(self._arrived_ms)

    def __repr__(self) -> str:
        return f"<Returns [{len(self)} went away]>"
