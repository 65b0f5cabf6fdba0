"""
Usage out of the Journal: whole days (UTC) from the daily rollup, whole hours from the hourly one, the rest from events.

The parts of an interval do not overlap and all three count the same events by the same lines, so the sum is that of the
events, whatever the interval's ends and whichever zone they are from.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, Subquery, case, func, select

from gateway.core.statement import UsageSum
from gateway.stores.schema import LINE_TEXTS, USAGE_MEASURES, meter_events, usage_days, usage_hours, usage_lines
from gateway.stores.sql_rollups import DAY_MS, HOUR_MS

_ALWAYS = ("service_class", "outcome", "flag", "price", "tier")
_ASKED_FOR = ("tenant", "project", "key", "model", "pool")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuestion:
    """By which of tenant, project, key, model and pool to sum, and whose events alone, if it is not everybody's."""

    by: Collection[str] = ()
    tenant: str | None = None
    key: str | None = None

    @property
    def groups(self) -> list[str]:
        return [name for name in _ASKED_FOR if name in self.by] + list(_ALWAYS)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A half-open interval, cut at the hours and days (UTC) that are whole in it; each list may be empty."""

    events: tuple[tuple[int, int], ...]
    hours: tuple[tuple[int, int], ...]
    days: tuple[tuple[int, int], ...]


def cut(from_ms: int, to_ms: int) -> Pieces:
    """Cut an interval so that as much as can be of it is whole days, then whole hours."""
    outside_hours, hours = _split(from_ms, to_ms, HOUR_MS)
    pieces = [_split(start, end, DAY_MS) for start, end in hours]
    return Pieces(
        outside_hours,
        tuple(piece for outside, _ in pieces for piece in outside),
        tuple(piece for _, days in pieces for piece in days),
    )


def read_usage(connection: Connection, from_ms: int, to_ms: int, question: UsageQuestion) -> Sequence[UsageSum]:
    """Sum the events that arrived in [from_ms, to_ms)."""
    groups, found = question.groups, dict[tuple[Any, ...], list[int]]()
    for query in _queries(cut(from_ms, to_ms), question):
        for row in connection.execute(query):
            key, measures = tuple(row[: len(groups)]), map(int, row[len(groups) :])
            sums = found.get(key, [0] * len(USAGE_MEASURES))
            found[key] = [a + b for a, b in zip(sums, measures, strict=True)]
    names = (*groups, *USAGE_MEASURES)
    return [UsageSum(**dict(zip(names, (*key, *sums), strict=True))) for key, sums in found.items()]


def _split(start: int, end: int, unit: int) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Give the pieces of an interval outside and inside of its whole units."""
    first, last = -(-start // unit) * unit, end // unit * unit
    if first >= last:
        return ((start, end),), ()
    return tuple(piece for piece in ((start, first), (last, end)) if piece[0] < piece[1]), ((first, last),)


def _queries(pieces: Pieces, question: UsageQuestion) -> Iterator[Select[Any]]:
    for start, end in pieces.events:
        yield _from_events(start, end, question)
    for rollup, parts in ((usage_hours, pieces.hours), (usage_days, pieces.days)):
        for start, end in parts:
            at = rollup.c.at_ms
            summed = _summed_by_line(select(rollup).where(start <= at, at < end).subquery(), question)
            yield _grouped(summed, question)


def _from_events(start: int, end: int, question: UsageQuestion) -> Select[Any]:
    events = meter_events.c
    columns: dict[str, Any] = {name: events[name] for name in (*LINE_TEXTS, "tier")}
    columns["model"] = case((events.pool == "", ""), else_=events.model)  # as rollups have it
    groups = [columns[name].label(name) for name in question.groups]
    sums = (func.coalesce(func.sum(events[name]), 0) for name in USAGE_MEASURES[1:])
    query = select(*groups, func.count(), *sums).where(start <= events.arrived_ms, events.arrived_ms < end)
    return _only(query, events, question).group_by(*groups)


def _summed_by_line(rows: Subquery, question: UsageQuestion) -> Subquery:
    """Sum by line before the line's texts are looked up: there are far fewer lines than rows."""
    sums = (func.sum(rows.c[name]).label(name) for name in USAGE_MEASURES)
    query = select(rows.c.line, *sums).group_by(rows.c.line)
    if question.tenant is not None or question.key is not None:
        query = query.where(rows.c.line.in_(_only(select(usage_lines.c.id), usage_lines.c, question)))
    return query.subquery()


def _grouped(summed: Subquery, question: UsageQuestion) -> Select[Any]:
    groups = [usage_lines.c[name] for name in question.groups]
    sums = (func.sum(summed.c[name]) for name in USAGE_MEASURES)
    query = select(*groups, *sums).join_from(summed, usage_lines, usage_lines.c.id == summed.c.line)
    return query.group_by(*groups)


def _only(query: Select[Any], columns: Any, question: UsageQuestion) -> Select[Any]:
    if question.tenant is not None:
        query = query.where(columns.tenant == question.tenant)
    return query if question.key is None else query.where(columns.key == question.key)
