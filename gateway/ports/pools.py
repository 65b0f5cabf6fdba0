"""What sluice.yaml declares, as it was applied: pools and names in one step, with a history."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.directory import Model
from gateway.core.pools import PoolSpec
from gateway.core.prices import PriceVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """
    One `sluice apply`: *text* is the part of the file that declares pools, names and prices, *digest* its SHA-256.

    *number* counts from 1; *rolls_back_to* is the number of the one that this one brought back, if it did.
    """

    number: int
    at_ms: int
    who: str
    digest: str
    text: str
    rolls_back_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the Directory has at *version*: pools that are not removed, all models, and what was applied last."""

    version: int = 0
    pools: tuple[PoolSpec, ...] = ()
    models: tuple[Model, ...] = ()
    applied: Applied | None = None

    @property
    def number(self) -> int:
        """The number of what was applied last, 0 before the first time."""
        return self.applied.number if self.applied else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes:
    """Rows to create or replace, all of them in one transaction."""

    pools: tuple[PoolSpec, ...] = ()
    models: tuple[Model, ...] = ()
    prices: tuple[PriceVersion, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pools or self.models or self.prices)


class PoolStore(Protocol):
    """Applied files in their store. Blocking; raises StoreUnavailable within its time limit."""

    def declared(self) -> Declared:
        """Read what is declared now, of one moment."""

    def applied(self, number: int) -> Applied | None:
        """Find what was applied under a number."""

    def history(self) -> Sequence[Applied]:
        """List all that was ever applied, newest first."""

    def carry_out(self, writes: Writes, applied: Applied, *, at_version: int) -> bool:
        """
        Write *writes* and note them as *applied*, in one transaction that raises the Directory's version by one.

        False, and nothing written, if the Directory is not at *at_version* any more: whatever was decided is then to be
        decided anew.
        """
