"""
What past usage would have cost under a book that is planned, against the book as it is.

Both are asked for the prices of one and the same moment, so that what is compared is the change and nothing else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.control.prices import PricePlan
from gateway.core.money import round_to_nano
from gateway.core.prices import PriceBook, PriceVersion
from gateway.core.rating import charge, is_batch, quantities
from gateway.ports.prompt_usage import PromptUsage, PromptUsageReader

_Line = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Amount:
    """What a line costs in a currency, rounded once."""

    currency: str
    nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewLine:
    """What one tenant used of one model in one pool; *before* or *after* None: it has no price."""

    tenant: str
    model: str
    pool: str
    requests: int
    before: Amount | None
    after: Amount | None

    @property
    def difference_nano(self) -> int | None:
        """What it costs more; None if that cannot be said in one currency."""
        if self.before is None or self.after is None or self.before.currency != self.after.currency:
            return None
        return self.after.nano - self.before.nano


@dataclass(frozen=True, slots=True)
class Preview:
    """Lines by tenant, model and pool; both books were asked for the prices at *at_ms*."""

    at_ms: int
    lines: tuple[PreviewLine, ...]

    def totals(self) -> dict[str, tuple[int, int]]:
        """Give the sums of the lines in each currency, before and after."""
        sums: dict[str, tuple[int, int]] = {}
        for line in self.lines:
            for amount, is_after in ((line.before, False), (line.after, True)):
                if amount:
                    before, after = sums.get(amount.currency, (0, 0))
                    sums[amount.currency] = (before, after + amount.nano) if is_after else (before + amount.nano, after)
        return sums


def preview_moment(plan: PricePlan, now_ms: int) -> int:
    """Give the moment when the last of the new versions has come into force; now if there are none."""
    return max((version.from_ms for version in plan.news), default=now_ms)


def preview(reader: PromptUsageReader, plan: PricePlan, from_ms: int, to_ms: int, at_ms: int) -> Preview:
    """Rate what arrived in [from_ms, to_ms) by the prices of *at_ms*, before and after *plan*."""
    before, after = plan.before, plan.after
    bounds = sorted({tier.from_tokens for each in after.by_id.values() for tier in each.tiers} - {0})
    sums: dict[_Line, list[PromptUsage]] = {}
    for usage in reader.usage_by_prompt(from_ms, to_ms, bounds):
        sums.setdefault((usage.tenant, usage.model, usage.pool), []).append(usage)
    starts = [0, *bounds]
    lines = (_line(line, sums[line], (before, after), at_ms, starts) for line in sorted(sums))
    return Preview(at_ms, tuple(lines))


def _line(
    line: _Line, sums: Sequence[PromptUsage], books: tuple[PriceBook, PriceBook], at_ms: int, starts: Sequence[int]
) -> PreviewLine:
    tenant, model, pool = line
    before, after = (_amount(sums, book.find(tenant, model, pool, at_ms), starts) for book in books)
    requests = sum(each.requests for each in sums)
    return PreviewLine(tenant=tenant, model=model, pool=pool, requests=requests, before=before, after=after)


def _amount(sums: Iterable[PromptUsage], price: PriceVersion | None, starts: Sequence[int]) -> Amount | None:
    """Rate sums at one price; a bracket lies in one tier, as every tier's start is a bound of brackets."""
    if price is None:
        return None
    femto = sum(
        line.femto
        for each in sums
        for line in charge(
            quantities(each),
            price,
            price.tier_of(starts[each.bracket]),
            is_batch=is_batch(each.service_class),
        )
    )
    return Amount(price.currency, round_to_nano(femto))
