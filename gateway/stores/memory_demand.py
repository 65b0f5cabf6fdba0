"""The board of demand where there is but one gateway."""

from collections.abc import Mapping, Sequence

from gateway.core.demand import Learnt
from gateway.ports.demand import Shares


class MemoryDemand:
    """A DemandBoard with nobody else on it, which ends with its process."""

    def __init__(self) -> None:
        self.is_up = True
        self.learnt: dict[str, Learnt] = {}

    async def exchange(self, own: Shares, learnt: Mapping[str, Learnt]) -> None:  # noqa: ARG002  nobody else reads it
        self.learnt |= learnt

    @property
    def others(self) -> Sequence[Shares]:
        return ()

    def __repr__(self) -> str:
        return f"<MemoryDemand [{len(self.learnt)} pools learnt]>"
