"""Where gateways tell one another what their pools are asked for, so that each decides from the whole."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.core.demand import Learnt, Share

Shares = Mapping[str, Share]  # by pool


class DemandBoard(Protocol):
    """
    A board on which every gateway's latest word stands until its lease ends.

    What was learnt of workers outlives all gateways where the store does.
    """

    is_up: bool
    """Whether the last exchange reached the store; without it others' words are those of the last one that did."""

    async def exchange(self, own: Shares, learnt: Mapping[str, Learnt]) -> None:
        """
        Put up our own word in the place of the last one, and read the others'. Idempotent; never raises.

        *learnt* replaces what stands there of these pools; pools that are not named stay. It blocks for as long as a
        call to the store may take. Words of gateways that were silent for a lease are gone.
        """

    @property
    def others(self) -> Sequence[Shares]:
        """What the other gateways said, as of the last exchange that reached the store."""

    @property
    def learnt(self) -> Mapping[str, Learnt]:
        """What stands on the board of each pool's workers."""
