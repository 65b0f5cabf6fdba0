"""Counting budgets anew from the Journal's events, by another way than they were counted when they came."""

from collections import Counter as Sums
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, text

from gateway.core.budgets import Budget, BudgetKind
from gateway.core.spending import counts_from_ms, period_ms
from gateway.ports.budgets import Difference, prepaid_account
from gateway.stores.database import Database
from gateway.stores.schema import directory_state
from gateway.stores.sql_budgets import declared, post, posted, read_counters, set_counters
from gateway.stores.sql_counting import spent_by_period, spent_since
from gateway.stores.sql_transfers import balance

_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """What events and transfers say of each counter, and what is to be posted more to each prepaid account."""

    expected: Mapping[_Key, int]
    unposted: Mapping[Budget, int]
    differences: Sequence[Difference]


def prove(connection: Connection) -> Finding:
    """Count everything and compare, as of one moment: this transaction must be new."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    return _compare(connection)


def rebuild(connection: Connection, database: Database, now_ms: int) -> Finding:
    """Count everything and write what differs. Appends and declarations wait until this transaction ends."""
    connection.execute(select(directory_state.c.version).with_for_update())
    finding = _compare(connection)
    wrong = {(each.budget, each.period_ms) for each in finding.differences}
    set_counters(connection, database, {key: finding.expected[key] for key in sorted(wrong)}, now_ms)
    post(
        connection,
        database,
        {(each, 0): missing for each, missing in finding.unposted.items()},
        f"rebuild-{now_ms}",
        now_ms,
    )
    return finding


def _compare(connection: Connection) -> Finding:
    budgets = declared(connection)
    prepaid = [each for each in budgets if each.kind == BudgetKind.PREPAID.value]
    periodic = [each for each in budgets if each.kind != BudgetKind.PREPAID.value]
    expected: Sums[_Key] = Sums(spent_by_period(connection, periodic))
    expected.update({(each.id, 0): -balance(connection, prepaid_account(each.tenant)) for each in prepaid})
    differences, unposted = [], {}
    for each in prepaid:
        spent, found = spent_since(connection, each), posted(connection, each)
        if spent != found:
            unposted[each] = spent - found
            differences.append(Difference(budget=each.id, period_ms=0, what="posted", found=found, expected=spent))
    found_now = _found(connection, budgets)
    for key in sorted({*expected, *found_now}):
        if (found := found_now.get(key, 0)) != expected[key]:
            (identity, at_ms), should = key, expected[key]
            differences.append(Difference(budget=identity, period_ms=at_ms, what="spent", found=found, expected=should))
    return Finding(expected, unposted, differences)


def _found(connection: Connection, budgets: Sequence[Budget]) -> dict[_Key, int]:
    """Read the counters of what counts: those of an earlier declaration of the same budget are history."""
    from_ms = {each.id: period_ms(each, counts_from_ms(each)) for each in budgets}
    counters = (each for each in read_counters(connection) if each.budget in from_ms)
    return {(each.budget, each.period_ms): each.spent for each in counters if each.period_ms >= from_ms[each.budget]}
