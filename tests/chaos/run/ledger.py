"""What the Journal's tables must agree on among themselves: rollups and budgets with events, and nothing left open."""

from collections import Counter

import sqlalchemy
from sqlalchemy import Connection, Select, Table, case, func, select

from gateway.stores.database import Database, parse_url
from gateway.stores.schema import (
    LINE_TEXTS,
    USAGE_MEASURES,
    meter_events,
    open_requests,
    usage_days,
    usage_hours,
    usage_lines,
)
from gateway.stores.sql_balances import SqlBudgets

COUNTING_S_MAX = 600.0
HOUR_MS = 3_600_000
LENGTHS_MS = {usage_hours: HOUR_MS, usage_days: 24 * HOUR_MS}


def disagreements(database_url: str) -> list[str]:
    """Name what differs: the first rows of rollups, counters of budgets, and requests that are still held as open."""
    engine = sqlalchemy.create_engine(parse_url(database_url))
    with engine.connect() as connection:
        found = [line for rollup in LENGTHS_MS for line in _compare(connection, rollup)]
        left_open = connection.execute(select(func.count()).select_from(open_requests)).scalar_one()
    engine.dispose()
    found += _budgets(database_url)
    return found + ([f"open_requests still holds {left_open}"] if left_open else [])


def _budgets(database_url: str) -> list[str]:
    """Have the budgets counted anew from the events, and the transfers of all accounts summed."""
    database = Database(database_url, timeout_s=COUNTING_S_MAX)
    store = SqlBudgets(database)
    wrong = [str(difference) for difference in store.prove()]
    sums = Counter[str]()
    for _, currency, nano in store.balances():
        sums[currency] += nano
    database.close()
    return wrong + [f"all accounts sum to {nano} {currency}, not to 0" for currency, nano in sums.items() if nano]


def _compare(connection: Connection, rollup: Table) -> list[str]:
    summed, kept = _summed(LENGTHS_MS[rollup]), _kept(rollup)
    missing = connection.execute(summed.except_(kept).limit(3)).all()
    surplus = connection.execute(kept.except_(summed).limit(3)).all()
    return [f"events make {row}, {rollup.name} has not" for row in missing] + [
        f"{rollup.name} has {row}, events do not" for row in surplus
    ]


def _summed(length_ms: int) -> Select:
    """Sum the events as the rollup does; without a pool there is no such model, and a client's words are no line."""
    events = meter_events.c
    texts = [
        case((events.pool == "", ""), else_=events.model) if name == "model" else events[name] for name in LINE_TEXTS
    ]
    groups = [(events.arrived_ms - events.arrived_ms % length_ms).label("at_ms"), *texts, events.tier]
    sums = [func.sum(func.coalesce(events[name], 0)) for name in USAGE_MEASURES[1:]]
    return select(*groups, func.count(), *sums).group_by(*groups)


def _kept(rollup: Table) -> Select:
    lines = [usage_lines.c[name] for name in (*LINE_TEXTS, "tier")]
    columns = [rollup.c.at_ms, *lines, *(rollup.c[name] for name in USAGE_MEASURES)]
    return select(*columns).join(usage_lines, usage_lines.c.id == rollup.c.line)
