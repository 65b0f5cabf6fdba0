"""
What budgets have spent, in SQL: counted in the transactions that append events, so that a counter never disagrees.

Every append takes a share of the row of the directory's version, which whoever declares a budget takes for himself. So
an event is either seen by the sum a new budget begins with, or its append sees the budget; never neither, never both.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, and_, case, func, select

from gateway.core.binding import Bindings
from gateway.core.budgets import Budget, BudgetKind
from gateway.core.ids import time_sorted_id
from gateway.core.periods import FOR_EVER
from gateway.core.rating import Rated
from gateway.core.spending import Counter, counts_from_ms, tally
from gateway.ports.budgets import REVENUE, Transfer, prepaid_account
from gateway.stores.database import Database
from gateway.stores.schema import budget_counters, budgets, directory_state, transfers
from gateway.stores.sql_counting import spent_by_period, spent_since

_COUNTER_FIELDS = tuple(field.name for field in fields(Counter))
_BUDGET_FIELDS = tuple(field.name for field in fields(Budget))
_WHAT_COUNTS = ("scope", "subject", "tenant", "model", "kind", "period", "currency", "zone", "since_ms")


class BudgetBooks:
    """Counts events towards budgets. Remembers what is declared, by the directory's version."""

    def __init__(self, database: Database, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._database = database
        self._now_ms = now_ms
        self._declared: tuple[int, Bindings[Budget]] = (-1, Bindings[Budget].of(()))

    def book(self, connection: Connection, new: Sequence[Rated]) -> None:
        """Count *new* events, which this transaction has just inserted; spending of prepaid accounts is transferred."""
        bindings = self._bindings(connection)
        if not bindings or not new:
            return
        sums = tally(bindings, new)
        if sums:
            post(connection, self._database, sums, new[0].event.id, self._now_ms())

    def _bindings(self, connection: Connection) -> Bindings[Budget]:
        version = connection.execute(select(directory_state.c.version).with_for_update(read=True)).scalar_one()
        known, bindings = self._declared
        if version != known:
            bindings = Bindings[Budget].of(declared(connection))
            self._declared = (version, bindings)
        return bindings


def declared(connection: Connection, identity: str | None = None) -> list[Budget]:
    """Read the budgets that are not removed, or the one of an id."""
    query = select(*(budgets.c[name] for name in _BUDGET_FIELDS)).where(budgets.c.is_removed.is_(False))
    if identity is not None:
        query = query.where(budgets.c.id == identity)
    return [Budget(**dict(zip(_BUDGET_FIELDS, row, strict=True))) for row in connection.execute(query)]


def is_counted(connection: Connection, budget: Budget) -> bool:
    """Tell whether the budget that is declared under this id counts what *budget* would, since the same moment."""
    found = next(iter(declared(connection, budget.id)), None)
    return found is not None and all(getattr(found, name) == getattr(budget, name) for name in _WHAT_COUNTS)


def open_budget(connection: Connection, database: Database, budget: Budget, now_ms: int) -> None:
    """
    Have a budget that was declared in this transaction begin with what its first period has spent already.

    The transaction must have raised the directory's version before.
    """
    if budget.kind == BudgetKind.PREPAID.value:
        missing = spent_since(connection, budget) - posted(connection, budget)
        post(connection, database, {(budget, FOR_EVER.from_ms): missing}, f"opening-{now_ms}", now_ms)
        return
    first = (budget.id, counts_from_ms(budget))
    set_counters(connection, database, {first: 0, **spent_by_period(connection, [budget])}, now_ms)


def post(
    connection: Connection, database: Database, sums: Mapping[tuple[Budget, int], int], cause: str, now_ms: int
) -> None:
    """
    Add *sums* to their counters; what prepaid budgets spent is transferred too, a sum below zero back.

    *cause* names what it is for, an event for example: a budget is posted to once for each.
    """
    rows = [_postings(budget, amount, cause, now_ms) for (budget, _), amount in sums.items() if amount]
    if written := [row for row in rows if row]:
        connection.execute(transfers.insert(), written)
    add_to_counters(connection, database, {(each.id, at): amount for (each, at), amount in sums.items()}, now_ms)


def _postings(budget: Budget, amount: int, cause: str, now_ms: int) -> dict[str, Any] | None:
    if budget.kind != BudgetKind.PREPAID.value:
        return None
    account = prepaid_account(budget.tenant)
    debit, credit = (account, REVENUE) if amount > 0 else (REVENUE, account)
    transfer = Transfer(
        id=time_sorted_id("tra", now_ms),
        at_ms=now_ms,
        debit=debit,
        credit=credit,
        amount_nano=abs(amount),
        currency=budget.currency,
        reason="usage" if amount > 0 else "correction",
        reference=f"{posting_prefix(budget)}{cause}",
    )
    return transfer_row(transfer)


def posting_prefix(budget: Budget) -> str:
    """Begin the references of what a prepaid budget spent since it was declared, and of nothing else."""
    return f"usage:{budget.id}:{budget.since_ms}:"


def posted(connection: Connection, budget: Budget) -> int:
    """Sum what was transferred from a prepaid account for usage, since its budget was declared."""
    account = prepaid_account(budget.tenant)
    signed = case((transfers.c.debit == account, transfers.c.amount_nano), else_=-transfers.c.amount_nano)
    theirs = (transfers.c.debit == account) | (transfers.c.credit == account)
    named = transfers.c.reference.startswith(posting_prefix(budget), autoescape=True)
    return int(connection.execute(select(func.coalesce(func.sum(signed), 0)).where(and_(theirs, named))).scalar_one())


def transfer_row(transfer: Transfer) -> dict[str, Any]:
    """Give a transfer's values by column."""
    return {field.name: getattr(transfer, field.name) for field in fields(Transfer)}


def add_to_counters(
    connection: Connection, database: Database, sums: Mapping[tuple[str, int], int], now_ms: int
) -> None:
    """Add to counters, by budget and beginning of the period; in one order, so that appends never wait in a circle."""
    _put_counters(connection, database, sums, now_ms, adds=True)


def set_counters(connection: Connection, database: Database, sums: Mapping[tuple[str, int], int], now_ms: int) -> None:
    """Overwrite counters, by budget and beginning of the period."""
    _put_counters(connection, database, sums, now_ms, adds=False)


def _put_counters(
    connection: Connection, database: Database, sums: Mapping[tuple[str, int], int], now_ms: int, *, adds: bool
) -> None:
    if not sums:
        return
    old, given = budget_counters.c, database.insert(budget_counters).excluded
    # Never below the clock: a row that was lost and is made anew, or came from a backup, still counts as newer.
    version = case((old.version >= given.version, old.version + 1), else_=given.version)
    changes = {"spent": old.spent + given.spent if adds else given.spent, "version": version}
    rows = [
        {"budget": budget, "period_ms": begins_ms, "spent": amount, "version": now_ms, "filled": 0, "filled_ms": 0}
        for (budget, begins_ms), amount in sorted(sums.items())
    ]
    statement = database.insert(budget_counters)
    connection.execute(statement.on_conflict_do_update(index_elements=["budget", "period_ms"], set_=changes), rows)


def read_counters(
    connection: Connection, periods: Collection[int] | None = None, budgets: Collection[str] | None = None
) -> list[Counter]:
    """Read the counters of the periods that begin at these moments, of these budgets; None: all."""
    columns = (budget_counters.c[name] for name in _COUNTER_FIELDS)
    query = select(*columns).order_by(budget_counters.c.budget, budget_counters.c.period_ms)
    if periods is not None:
        query = query.where(budget_counters.c.period_ms.in_(periods))
    if budgets is not None:
        query = query.where(budget_counters.c.budget.in_(budgets))
    return [Counter(**dict(zip(_COUNTER_FIELDS, row, strict=True))) for row in connection.execute(query)]
