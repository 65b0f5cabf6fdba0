"""
The price book: versions of prices, each for a model and an interval of time, and which of them is in force.

A version is immutable once it is in force: an event names the one that was in force when its request arrived, and is
rated by it for good. The most specific scope wins: a tenant's own price before everybody's, within each a pool's own
before all pools'.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from gateway.core.money import CURRENCY, format_scaled, parse_scaled

FACTOR_ONE = 1000  # factors are in thousandths
FACTOR_DECIMALS = 3
PRICE_DECIMALS = 6
_FOREVER_MS = 2**63


class Unit(Enum):
    """What is counted and priced; the label is permanent in books, receipts and reports."""

    INPUT = "input"  # prompt tokens that were computed
    CACHED_INPUT = "cached_input"  # prompt tokens that the engine had in its prefix cache
    OUTPUT = "output"  # completion tokens that are not reasoning
    REASONING = "reasoning"
    IMAGE = "image"  # image parts of a prompt, besides the tokens they make
    AUDIO = "audio"  # milliseconds of audio parts of a prompt; priced per second

    __hash__ = object.__hash__  # a member is itself alone; by name, as Enum has it, rating takes a quarter longer


# What people price: a million tokens, one image, a second of audio. Here it is in millionths of their price.
_FEMTO_PER_MICRO: Mapping[Unit, int] = MappingProxyType(
    {
        **dict.fromkeys((Unit.INPUT, Unit.CACHED_INPUT, Unit.OUTPUT, Unit.REASONING), 10**15 // 10**6 // 10**6),
        Unit.IMAGE: 10**15 // 10**6,
        Unit.AUDIO: 10**15 // 10**6 // 1000,
    }
)


def parse_price(text: str, unit: Unit, what: str) -> int:
    """
    Read a price per million tokens, image or second of audio, as femto-units of one counted *unit*, exactly.

    Raises InvalidInput, which calls it *what*, unless it is a number of at most six decimals.
    """
    return parse_scaled(text, PRICE_DECIMALS, what) * _FEMTO_PER_MICRO[unit]


def format_price(femto: int, unit: Unit) -> str:
    """Write a price as `parse_price` reads it."""
    return format_scaled(femto // _FEMTO_PER_MICRO[unit], PRICE_DECIMALS)


@dataclass(frozen=True, slots=True)
class Tier:
    """
    Prices of requests whose prompt has at least *from_tokens* tokens, up to the next tier.

    *femto* is the price of one counted unit (a token, an image, a millisecond) in 1e-15 of the currency. A book may
    leave out cached input and reasoning: then they cost what input and output cost. Images and audio left out cost
    nothing beyond their tokens.
    """

    from_tokens: int
    femto: Mapping[Unit, int]

    def __post_init__(self) -> None:
        for unit, femto in self.femto.items():
            if type(femto) is not int or femto < 0 or femto % FACTOR_ONE:  # a factor must leave it whole
                raise ValueError(f"a price of {unit.value} is a multiple of {FACTOR_ONE} femto-units, not {femto!r}")

    def of(self, unit: Unit) -> int:
        """Give the price of one counted *unit*."""
        return self.femto.get(unit, self.femto.get(_SAME_AS[unit], 0) if unit in _SAME_AS else 0)


_SAME_AS = {Unit.CACHED_INPUT: Unit.INPUT, Unit.REASONING: Unit.OUTPUT}


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceVersion:
    """
    Prices of *model* for requests that arrive in [from_ms, to_ms); *to_ms* None: until further notice.

    *pool* and *tenant* narrow it down, empty means all. *tiers* ascend by prompt length, the first from 0. What is
    served in class batch costs *batch_thousandths* of the price.
    """

    id: str
    model: str
    pool: str = ""
    tenant: str = ""
    from_ms: int
    to_ms: int | None = None
    currency: str = CURRENCY
    tiers: tuple[Tier, ...]
    batch_thousandths: int = FACTOR_ONE
    is_withdrawn: bool = False  # taken back before it came into force

    def __post_init__(self) -> None:
        starts = [tier.from_tokens for tier in self.tiers]
        if starts[:1] != [0] or any(before >= after for before, after in pairwise(starts)):
            raise ValueError(f"the tiers of price {self.id} do not ascend from 0: {starts}")
        if self.to_ms is not None and self.to_ms <= self.from_ms:
            raise ValueError(f"price {self.id} would end before it begins")
        if type(self.batch_thousandths) is not int or self.batch_thousandths < 0:
            raise ValueError(f"price {self.id} has a batch factor of {self.batch_thousandths!r} thousandths")

    @property
    def scope(self) -> tuple[str, str, str]:
        """What versions must not overlap in: model, pool, tenant."""
        return self.model, self.pool, self.tenant

    def tier_of(self, prompt_tokens: int) -> int:
        """Give the index of the tier for a prompt of so many tokens."""
        return bisect_right(self.tiers, prompt_tokens, key=lambda tier: tier.from_tokens) - 1


PRICE_FIELDS = tuple(each.name for each in fields(PriceVersion))


@dataclass(frozen=True, slots=True)
class PriceBook:
    """All versions that ever were, by id, and by scope in order of time. Immutable; replaced whole when one changes."""

    by_id: Mapping[str, PriceVersion] = field(default_factory=dict)
    by_scope: Mapping[tuple[str, str, str], tuple[PriceVersion, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, versions: Iterable[PriceVersion]) -> "PriceBook":
        """Make a book of *versions*, withdrawn ones included: those are never found, but their ids stay known."""
        by_id = {version.id: version for version in versions}
        by_scope: dict[tuple[str, str, str], list[PriceVersion]] = {}
        for version in sorted(by_id.values(), key=lambda version: version.from_ms):
            if not version.is_withdrawn:
                by_scope.setdefault(version.scope, []).append(version)
        return cls(by_id, {scope: tuple(found) for scope, found in by_scope.items()})

    def apply(self, changed: Iterable[PriceVersion]) -> "PriceBook":
        """Give the book after *changed* versions; this one stays as it was."""
        new = {version.id: version for version in changed}
        return PriceBook.of({**self.by_id, **new}.values()) if new else self

    def find(self, tenant: str, model: str, pool: str, at_ms: int) -> PriceVersion | None:
        """Give the version in force for a request that arrives at *at_ms*; None: it has no price."""
        for scope in ((model, pool, tenant), (model, "", tenant), (model, pool, ""), (model, "", "")):
            versions = self.by_scope.get(scope, ())
            at = bisect_right(versions, at_ms, key=lambda version: version.from_ms) - 1
            if at >= 0 and ((to_ms := versions[at].to_ms) is None or at_ms < to_ms):
                return versions[at]
        return None

    def is_covered(self, version: PriceVersion, tenant: str, now_ms: int) -> bool:
        """Tell whether *tenant* has prices of its own for all the time that everybody's *version* has ahead."""
        scopes = {(version.model, pool, tenant) for pool in ("", version.pool)}
        own = sorted((each for scope in scopes for each in self.by_scope.get(scope, ())), key=lambda each: each.from_ms)
        reached_ms = max(version.from_ms, now_ms)
        for each in own:
            if each.from_ms <= reached_ms:
                reached_ms = max(reached_ms, _end_of(each))
        return reached_ms >= _end_of(version)


def _end_of(version: PriceVersion) -> int:
    return _FOREVER_MS if version.to_ms is None else version.to_ms


def price_to_row(version: PriceVersion) -> dict[str, Any]:
    """Give a version as plain values, its tiers as JSON text."""
    tiers = [[tier.from_tokens, {unit.value: femto for unit, femto in tier.femto.items()}] for tier in version.tiers]
    return {name: getattr(version, name) for name in PRICE_FIELDS} | {"tiers": json.dumps(tiers)}


def price_from_row(**values: Any) -> PriceVersion:
    """Make a version of what `price_to_row` gave. Raises ValueError, LookupError or TypeError for anything else."""
    tiers = (
        Tier(from_tokens, {Unit(label): femto for label, femto in prices.items()})
        for from_tokens, prices in json.loads(values["tiers"])
    )
    return PriceVersion(**{**values, "tiers": tuple(tiers)})
