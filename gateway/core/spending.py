"""What events count towards budgets, and how far a budget is spent. Pure sums; rounding has happened before."""

from collections import Counter as Sums
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.core.binding import Bindings
from gateway.core.budgets import Budget, BudgetKind
from gateway.core.periods import FOR_EVER, calendar
from gateway.core.rating import Rated


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """
    What *budget* has spent in the period that begins at *period_ms*, in nano-units or tokens.

    *version* grows with each change. Of a prepaid budget *spent* is its balance with the sign turned round; *filled* is
    what there was after the last money came in, at *filled_ms*.
    """

    budget: str
    period_ms: int
    spent: int
    version: int
    filled: int = 0
    filled_ms: int = 0


def counts_from_ms(budget: Budget) -> int:
    """Give from which arrival on events count: the period of its declaration whole, of a prepaid one the rest of it."""
    if budget.kind == BudgetKind.PREPAID.value:
        return budget.since_ms
    return calendar(budget.zone).span(budget.period, budget.since_ms).from_ms


def period_ms(budget: Budget, arrived_ms: int) -> int:
    """Give the beginning of the period to which a request belongs that arrived then."""
    if budget.kind == BudgetKind.PREPAID.value:
        return FOR_EVER.from_ms
    return calendar(budget.zone).span(budget.period, arrived_ms).from_ms


def counted(budget: Budget, rated: Rated) -> int:
    """Give what an event counts towards a budget that binds it; without a price, or in another currency, nothing."""
    if budget.kind == BudgetKind.TOKENS.value:
        return rated.event.prompt_tokens + rated.event.completion_tokens
    return rated.cost_nano or 0 if rated.currency == budget.currency else 0


def tally(bindings: Bindings[Budget], events: Iterable[Rated]) -> dict[tuple[Budget, int], int]:
    """Sum what *events* count, by budget and beginning of the period; what counts nothing is left out."""
    found: dict[str, tuple[Budget, int]] = {}  # by id, with its first moment: a budget's own hash is of all its fields
    sums: Sums[tuple[str, int]] = Sums()
    for rated in events:
        event = rated.event
        for budget in bindings.bind(event.tenant, event.project, event.key, event.model):
            amount = counted(budget, rated)
            if budget.id not in found:
                found[budget.id] = (budget, counts_from_ms(budget))
            if amount and event.arrived_ms >= found[budget.id][1]:
                sums[budget.id, period_ms(budget, event.arrived_ms)] += amount
    return {(found[identity][0], at_ms): amount for (identity, at_ms), amount in sums.items()}


def percents(text: str) -> tuple[int, ...]:
    """Read percentages that a budget was declared with."""
    return tuple(int(part) for part in text.split(",") if part)


def limit_of(budget: Budget, counter: Counter) -> int:
    """Give what a budget's percentages are taken of: its amount; of a prepaid one, what the last top-up left there."""
    return counter.filled if budget.kind == BudgetKind.PREPAID.value else budget.amount


def used_of(budget: Budget, counter: Counter) -> int:
    """Give how much of `limit_of` is spent."""
    return counter.filled + counter.spent if budget.kind == BudgetKind.PREPAID.value else counter.spent


def passed_percents(budget: Budget, counter: Counter) -> tuple[int, ...]:
    """Give those of a budget's percentages that are spent by now."""
    limit, used = limit_of(budget, counter), used_of(budget, counter)
    return tuple(each for each in percents(budget.alert_percents) if limit > 0 and used * 100 >= limit * each)
