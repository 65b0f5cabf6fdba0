"""What the Journal's events count towards budgets, summed in SQL: for budgets that begin, and to prove the others."""

from collections import Counter as Sums
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from gateway.core.binding import Bindings
from gateway.core.budgets import Budget, BudgetKind
from gateway.core.periods import calendar
from gateway.core.spending import counts_from_ms
from gateway.stores.schema import meter_events

_QUARTER_MS = 900_000  # no zone of today is off UTC by less: a quarter of an hour lies in one period of every budget
_ROWS = 1000


def spent_since(connection: Connection, budget: Budget) -> int:
    """Sum what a prepaid budget's tenant has spent since it was declared."""
    all_of = meter_events.c
    theirs = (all_of.tenant == budget.tenant, all_of.currency == budget.currency, all_of.arrived_ms >= budget.since_ms)
    total = select(func.coalesce(func.sum(all_of.cost_nano), 0)).where(*theirs)
    return int(connection.execute(total).scalar_one())


def spent_by_period(connection: Connection, budgets: Sequence[Budget]) -> dict[tuple[str, int], int]:
    """Sum what events count towards each of *budgets*, none of them prepaid, by id and beginning of the period."""
    sums: Sums[tuple[str, int]] = Sums()
    if not budgets:
        return sums
    bindings = Bindings[Budget].of(budgets)
    begins = {each.id: counts_from_ms(each) for each in budgets}
    for row in _quarters(connection, min(begins.values()), {each.tenant for each in budgets}):
        for budget in bindings.bind(row.tenant, row.project, row.key, row.model):
            if row.at_ms >= begins[budget.id]:
                from_ms = calendar(budget.zone).span(budget.period, row.at_ms).from_ms
                sums[budget.id, from_ms] += _amount(budget, row)
    return sums


def _amount(budget: Budget, row: Any) -> int:
    if budget.kind == BudgetKind.TOKENS.value:
        return int(row.tokens)
    return int(row.cost_nano) if row.currency == budget.currency else 0


def _quarters(connection: Connection, from_ms: int, tenants: set[str]) -> Iterator[Any]:
    """Sum events by whose they are and by quarters of an hour, in one pass; of one tenant, by its index."""
    all_of = meter_events.c
    groups = [all_of[name] for name in ("tenant", "project", "key", "model", "currency")]
    at_ms = all_of.arrived_ms - all_of.arrived_ms % _QUARTER_MS
    tokens = func.sum(all_of.prompt_tokens + all_of.completion_tokens).label("tokens")
    cost = func.coalesce(func.sum(all_of.cost_nano), 0).label("cost_nano")
    query = select(*groups, at_ms.label("at_ms"), tokens, cost).where(all_of.arrived_ms >= from_ms)
    if len(tenants) == 1:
        query = query.where(all_of.tenant.in_(tenants))
    return iter(connection.execute(query.group_by(*groups, at_ms), execution_options={"yield_per": _ROWS}))
