"""Bodies and results: bytes under a name, until they expire."""

from typing import Protocol


class ObjectStore(Protocol):
    """
    Bytes under names such as `results/req_…`. They hold what people wrote: keep it private.

    All raise StoreUnavailable if the store does not answer or is full.
    """

    async def put(self, name: str, data: bytes, expires_ms: int, *, is_vital: bool) -> bool:
        """
        Keep *data* until *expires_ms* (Unix) unless there is something under *name*; tell whether it was kept.

        Atomic: of several that put at once exactly one is told yes, and nobody ever sees a part of it. Durable when it
        returns. What is not *is_vital* is refused, as StoreUnavailable, while room is short.
        """

    async def get(self, name: str) -> bytes | None:
        """Give what is kept under *name*; None if there is nothing, or it has expired."""

    async def delete(self, name: str) -> None:
        """Forget *name*. Idempotent."""

    async def sweep(self) -> int:
        """Delete what has expired, unless the store does that by itself; gives how much it was."""
