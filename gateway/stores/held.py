"""A ticket that has its slot, and what its service costs its tenant; and one that waits for it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.core.scheduling import Ticket


@dataclass(slots=True)
class Held:
    """A ticket, the work charged for it so far, and what tells the work it did; None: the prediction stands."""

    ticket: Ticket
    charged: int = 0
    spent: Callable[[], int] | None = None

    def correction(self, *, is_over: bool) -> int:
        """Give the work to charge more from now on: upwards as tokens flow, to the actual work at the end."""
        work = self.spent() - self.charged if self.spent else 0
        if work < 0 and not is_over:
            return 0
        self.charged += work
        return work


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
