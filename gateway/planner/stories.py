"""What becomes of one request, from its arrival to its end."""

from dataclasses import dataclass
from enum import Enum

from gateway.core.scheduling import Ticket
from gateway.planner.load import Request


class Ending(Enum):
    """How a request ended; LOST is one that never did, which must not be."""

    SERVED = "served"
    REFUSED = "refused"
    HUNG_UP = "hung_up"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class Story:
    """
    One request and its times; None is what has not happened.

    *expected_s* is the wait it was told when it came; *sent_s* is when an engine was given it, which had
    *cached_tokens* of its prompt.
    """

    request: Request
    ticket: Ticket
    expected_s: float | None = None
    granted_s: float | None = None
    sent_s: float | None = None
    first_s: float | None = None
    ended_s: float | None = None
    ending: Ending = Ending.LOST
    cached_tokens: int = 0

    @property
    def wait_s(self) -> float | None:
        """How long it waited to be given to an engine; None if it never was."""
        return None if self.sent_s is None else self.sent_s - self.request.at_s

    @property
    def ttft_s(self) -> float | None:
        """How long its client waited for the first token; None if it got none."""
        return None if self.first_s is None else self.first_s - self.request.at_s
