"""
Rating: what an event's quantities cost at the prices that were frozen when its request arrived.

Pure and exact: quantities times prices in femto-units. Sums of quantities rate to the sum of their amounts, so a report
may add up first and rate then, over any split of a period; rounding comes last (core/money.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.core.directory import ServiceClass
from gateway.core.money import round_to_nano
from gateway.core.prices import FACTOR_ONE, PriceVersion, Unit
from gateway.core.usage import MeterEvent


class Counted(Protocol):
    """What has the quantities of an event, or of many."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def reasoning_tokens(self) -> int: ...
    @property
    def images(self) -> int: ...
    @property
    def audio_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Charge:
    """One line: so many of *unit* at so much; *femto* is the exact amount."""

    unit: Unit
    quantity: int
    femto: int

    @property
    def nano(self) -> int:
        return round_to_nano(self.femto)


@dataclass(frozen=True, slots=True)
class Rated:
    """An event with what it costs; *cost_nano* is None if no price is known for it, *tier* then 0."""

    event: MeterEvent
    currency: str
    tier: int
    cost_nano: int | None


def quantities(of: Counted) -> dict[Unit, int]:
    """Give what an event, or a sum of events, counted, by unit, without those of which there is nothing."""
    counted = {
        Unit.INPUT: of.prompt_tokens - of.cached_tokens,
        Unit.CACHED_INPUT: of.cached_tokens,
        Unit.OUTPUT: of.completion_tokens - of.reasoning_tokens,
        Unit.REASONING: of.reasoning_tokens,
        Unit.IMAGE: of.images,
        Unit.AUDIO: of.audio_ms,
    }
    return {unit: quantity for unit, quantity in counted.items() if quantity}


def charge(counted: Mapping[Unit, int], price: PriceVersion, tier: int, *, is_batch: bool) -> tuple[Charge, ...]:
    """Rate quantities of requests that were all of one tier and all, or none, served in class batch."""
    return tuple(
        Charge(unit, counted[unit], femto) for unit, femto in _femto(counted, price, tier, is_batch=is_batch).items()
    )


def _femto(counted: Mapping[Unit, int], price: PriceVersion, tier: int, *, is_batch: bool) -> dict[Unit, int]:
    thousandths = price.batch_thousandths if is_batch else FACTOR_ONE
    prices = price.tiers[tier]
    return {unit: quantity * (prices.of(unit) * thousandths // FACTOR_ONE) for unit, quantity in counted.items()}


def is_batch(service_class: str) -> bool:
    """Tell whether requests of that class have the batch factor."""
    return service_class == ServiceClass.BATCH.label


def rate(event: MeterEvent, price: PriceVersion) -> tuple[Charge, ...]:
    """Give the charges of one event."""
    tier = price.tier_of(event.prompt_tokens)
    return charge(quantities(event), price, tier, is_batch=is_batch(event.service_class))


def cost_nano(charges: tuple[Charge, ...]) -> int:
    """Give what one request costs: the exact sum of its charges, rounded once."""
    return round_to_nano(sum(each.femto for each in charges))


def rated(event: MeterEvent, price: PriceVersion | None) -> Rated:
    """Rate one event by the *price* it names; None: that is not known."""
    if price is None:
        return Rated(event, "", 0, None)
    tier = price.tier_of(event.prompt_tokens)
    # As cost_nano of its charges, without making them: every event is rated once on its way into the ledger.
    femto = _femto(quantities(event), price, tier, is_batch=is_batch(event.service_class))
    return Rated(event, price.currency, tier, round_to_nano(sum(femto.values())))
