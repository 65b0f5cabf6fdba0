"""
Statements: what sums of events cost, line by line.

A line is all that one price version charges for one unit at one tier, with or without the batch factor. Sums are added
up first and each line is rounded once, so that a report, a bill and a caller's own view of the same events agree to the
nano however the period was cut.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.core.prices import PriceVersion, Unit
from gateway.core.rating import Charge, charge, is_batch, quantities
from gateway.core.usage import Flag

UNRATED = -1  # the tier of sums whose price was not known when their events were written


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSum:
    """
    Sums over events that agree in class, outcome, flag, price and tier, and in the rest as far as that was asked for.

    What was not asked for is empty. *cost_nano* sums what each single request cost, rounded for each: what budgets
    count. It may differ from an amount of lines by half a nano-unit per request.
    """

    tenant: str = ""
    project: str = ""
    key: str = ""
    model: str = ""
    pool: str = ""
    service_class: str
    outcome: str
    flag: str
    price: str
    tier: int
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    images: int
    audio_ms: int
    cost_nano: int


@dataclass(frozen=True, slots=True)
class Line:
    """So many of one unit at one price; *is_batch* tells whether the batch factor is in it."""

    price: PriceVersion
    tier: int
    is_batch: bool
    charge: Charge

    @property
    def femto_each(self) -> int:
        """What one of the unit costs here, the batch factor included."""
        return self.charge.femto // self.charge.quantity


@dataclass(frozen=True, slots=True)
class Statement:
    """Lines in order of price, tier, batch factor and unit; and what came back from an engine without any price."""

    lines: tuple[Line, ...] = ()
    unpriced_requests: int = 0
    unpriced_tokens: int = 0

    @property
    def amounts_nano(self) -> dict[str, int]:
        """The sum of the lines, each rounded once, by currency."""
        amounts: dict[str, int] = {}
        for line in self.lines:
            amounts[line.price.currency] = amounts.get(line.price.currency, 0) + line.charge.nano
        return amounts


def rating_price(each: UsageSum, prices: Mapping[str, PriceVersion]) -> PriceVersion | None:
    """Give the version that a sum was rated by; None: it is unpriced."""
    return None if each.tier == UNRATED else prices.get(each.price)


def statement(sums: Iterable[UsageSum], prices: Mapping[str, PriceVersion]) -> Statement:
    """Rate *sums* by the versions that they name; what names none of *prices* is unpriced, never guessed."""
    counted: defaultdict[tuple[str, int, bool], Counter[Unit]] = defaultdict(Counter)
    unpriced_requests = unpriced_tokens = 0
    for each in sums:
        if rating_price(each, prices):
            counted[each.price, each.tier, is_batch(each.service_class)].update(quantities(each))
        elif each.flag != Flag.NONE.value:
            unpriced_requests += each.requests
            unpriced_tokens += each.prompt_tokens + each.completion_tokens
    lines = (
        Line(prices[price], tier, with_factor, each)
        for (price, tier, with_factor), units in sorted(counted.items())
        for each in charge(_in_order(units), prices[price], tier, is_batch=with_factor)
    )
    return Statement(tuple(lines), unpriced_requests, unpriced_tokens)


def _in_order(units: Mapping[Unit, int]) -> dict[Unit, int]:
    return {unit: units[unit] for unit in Unit if units.get(unit)}
