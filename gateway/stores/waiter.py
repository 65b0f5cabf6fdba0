"""Someone who waits for a slot, and how they are told what becomes of it."""

import asyncio
from dataclasses import dataclass, field

from gateway.core.scheduling import Held


def _new_future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class Waiter:
    """
    A ticket in line, and whom to tell what becomes of it; *is_bounded* until it has been given a place.

    Someone who was cancelled and did not run since is told nothing: leaving is the first thing they will do.
    """

    held: Held
    is_bounded: bool = True
    granted: asyncio.Future[None] = field(default_factory=_new_future)

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the grant any more."""
        return self.granted.done()

    def grant(self) -> None:
        """Let it go on."""
        if not self.is_gone:
            self.granted.set_result(None)

    def turn_away(self, reason: Exception) -> None:
        """Have its waiting end with *reason*."""
        if not self.is_gone:
            self.granted.set_exception(reason)
