"""When requests that went away without a slot came for the first time: who comes again has not lost its age."""

from typing import Protocol


class ReturnStore(Protocol):
    """
    Requests that went away, by their marks (core/returns.py), for some minutes; times are Unix ms.

    Nothing here waits for a store: what is shared is told to the other gateways within a second, before clients that
    obey `Retry-After` are back. With the store away, each gateway knows its own.
    """

    def note(self, name: bytes, arrived_ms: int) -> None:
        """Remember that the request *name*, which first came at *arrived_ms*, went away."""

    def take(self, name: bytes, now_ms: int) -> int | None:
        """Give when the request *name* first came, and forget it here; None if that is not known, or too long ago."""

    def __len__(self) -> int: ...
