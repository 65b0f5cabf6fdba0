"""
Rollups: sums of events by hour and by day (UTC), line by line, kept in the transaction that writes the events.

A *line* is all that reports distinguish: who, which model, how it ended, and at which price and tier it is rated. A
rollup's rows therefore grow with the lines that are in use and with hours, not with events. Quantities are summed, not
amounts: a report rates sums (core/rating.py). *cost_nano* sums what each single request cost, for budgets.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

from sqlalchemy import Connection

from gateway.core.rating import Rated
from gateway.core.statement import UNRATED
from gateway.stores.schema import LINE_TEXTS, USAGE_MEASURES, usage_days, usage_hours, usage_lines
from gateway.stores.sql_bulk import insert_rows

HOUR_MS, DAY_MS = 3_600_000, 86_400_000

Line = tuple[str | int, ...]  # the values of LINE_TEXTS, then the tier
_Sums = dict[tuple[int, str], list[int]]
_LINE_NAMES = ("id", *LINE_TEXTS, "tier")
_ROLLUP_NAMES = ("at_ms", "line", *USAGE_MEASURES)
_NO_CHANGE = "ON CONFLICT DO NOTHING"


def add(connection: Connection, new: Iterable[Rated]) -> None:
    """
    Add events that were not there before to the sums.

    Rows are locked in the order of their keys, hours before days, so that gateways wait for but never block each other.
    """
    by_line = _by_hour_and_line(new)
    ids = {line: line_id(line) for _, line in by_line}
    if not ids:
        return
    lines = sorted((identity, *line) for line, identity in ids.items())
    insert_rows(connection, usage_lines, _LINE_NAMES, lines, _NO_CHANGE)
    hours = {(at_ms, ids[line]): sums for (at_ms, line), sums in by_line.items()}
    for table, sums in ((usage_hours, hours), (usage_days, _by_day(hours))):
        rows = sorted((*key, *measures) for key, measures in sums.items())
        insert_rows(connection, table, _ROLLUP_NAMES, rows, _addition(table.name))


def tier_of(rated: Rated) -> int:
    """Give the tier as the tables have it."""
    return UNRATED if rated.cost_nano is None else rated.tier


@lru_cache(100_000)  # lines come again with every batch
def line_id(line: Line) -> str:
    """Give the permanent id of a line: any gateway gives it the same, so that none has to ask for it."""
    return hashlib.sha256(json.dumps(line).encode()).hexdigest()[:32]


def _by_hour_and_line(new: Iterable[Rated]) -> Mapping[tuple[int, Line], list[int]]:
    found: dict[tuple[int, Line], list[int]] = {}
    for each in new:
        at_ms = each.event.arrived_ms
        key = (at_ms - at_ms % HOUR_MS, _line(each))
        measures = _measures(each)
        if sums := found.get(key):
            found[key] = [a + b for a, b in zip(sums, measures, strict=True)]
        else:
            found[key] = measures
    return found


def _by_day(hours: _Sums) -> _Sums:
    found: _Sums = {}
    for (at_ms, line), measures in hours.items():
        key = (at_ms - at_ms % DAY_MS, line)
        sums = found.get(key, [0] * len(measures))
        found[key] = [a + b for a, b in zip(sums, measures, strict=True)]
    return found


def _line(rated: Rated) -> Line:
    event = rated.event
    return (
        event.tenant,
        event.project,
        event.key,
        event.model if event.pool else "",  # without a pool there is no such model: a client's words are no line
        event.pool,
        event.service_class,
        event.outcome,
        event.flag,
        event.price,
        tier_of(rated),
    )


def _measures(rated: Rated) -> list[int]:
    event = rated.event
    return [
        1,
        event.prompt_tokens,
        event.cached_tokens,
        event.completion_tokens,
        event.reasoning_tokens,
        event.images,
        event.audio_ms,
        rated.cost_nano or 0,
    ]


@cache
def _addition(table: str) -> str:
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in USAGE_MEASURES)
    return f"ON CONFLICT (at_ms, line) DO UPDATE SET {sums}"
