"""
The usage report: what was asked of us and what it cost in tokens, over any interval, in any zone.

A report is a query on the Journal: its totals are the sums of its rows, and those are sums of events. A request belongs
to the interval in which it arrived.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self
from zoneinfo import ZoneInfo

from gateway.core.outcome import Outcome
from gateway.core.usage import Flag
from gateway.core.zones import days, local_time
from gateway.errors import InvalidInput
from gateway.ports.journal import JournalReader, UsageSum

DAY = "day"
GROUPS = ("tenant", "key", "model", DAY)

# Requests that were refused before any engine saw them.
DENIALS = frozenset(
    outcome.label
    for outcome in (
        Outcome.BAD_REQUEST,
        Outcome.BODY_TOO_LARGE,
        Outcome.UNAUTHENTICATED,
        Outcome.CLASS_NOT_ALLOWED,
        Outcome.UNKNOWN_MODEL,
        Outcome.NOT_FOUND,
        Outcome.METHOD_NOT_ALLOWED,
        Outcome.LIMITED,
        Outcome.OVER_BUDGET,
        Outcome.BUDGET_UNAVAILABLE,
        Outcome.QUEUE_FULL,
        Outcome.WAIT_TOO_LONG,
        Outcome.NO_WORKER,
        Outcome.DRAINING,
        Outcome.SPOOL_UNAVAILABLE,
        Outcome.ASYNC_UNAVAILABLE,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """
    What a row counts.

    *denied* were refused before any engine saw them. What neither completed nor was denied failed, or its client left.
    *exact*, *delivered* and *interrupted* say by which rule the tokens of how many requests were counted: the engine's
    final usage; what had been delivered when the stream was cut; what was noted last when a gateway died.
    """

    requests: int = 0
    completed: int = 0
    denied: int = 0
    exact: int = 0
    delivered: int = 0
    interrupted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: Self) -> "Measures":
        return Measures(**{name: getattr(self, name) + getattr(other, name) for name in MEASURES})


MEASURES = tuple(field.name for field in fields(Measures))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which events, [from_ms, to_ms) by arrival, and by what their sums are taken."""

    from_ms: int
    to_ms: int
    zone: ZoneInfo
    group_by: tuple[str, ...] = ()
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Rows in the order of their groups, each with its group's values in the order of `query.group_by`."""

    query: UsageQuery
    rows: tuple[tuple[tuple[str, ...], Measures], ...]

    @property
    def totals(self) -> Measures:
        """The sum of all rows."""
        return sum((measures for _, measures in self.rows), Measures())

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of a row's values."""
        return (*self.query.group_by, *MEASURES)

    def records(self) -> list[dict[str, str | int]]:
        """Give the rows as mappings from column to value."""
        groups = ((dict(zip(self.query.group_by, group, strict=True)), measures) for group, measures in self.rows)
        return [{**group, **asdict(measures)} for group, measures in groups]

    def to_csv(self) -> str:
        """Give the rows as CSV with a line of names on top; without totals, so that summing a column counts once."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _inert(value) for name, value in record.items()} for record in self.records())
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain data; the field names are stable."""
        query = self.query
        return {
            "from": local_time(query.from_ms, query.zone).isoformat(),
            "to": local_time(query.to_ms, query.zone).isoformat(),
            "zone": query.zone.key,
            "tenant": query.tenant,
            "group_by": list(query.group_by),
            "rows": self.records(),
            "totals": asdict(self.totals),
        }


def parse_groups(text: str) -> tuple[str, ...]:
    """Read groups with commas between them; raises InvalidInput naming the one that there is not."""
    groups = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in groups:
        if name not in GROUPS:
            raise InvalidInput(f"There is no group {name!r}. Group by any of {', '.join(GROUPS)}.")
    return groups


def usage_report(journal: JournalReader, query: UsageQuery) -> UsageReport:
    """
    Sum the Journal. Blocking. Raises InvalidInput for a tenant that never was, StoreUnavailable.

    Days are summed one query each: whatever a zone does with its clocks, a day's bounds are two instants.
    """
    if query.tenant is not None and not journal.knows_tenant(query.tenant):
        raise InvalidInput(f"There is no tenant {query.tenant!r}, nor was there ever. See `sluice tenants list`.")
    by = [name for name in query.group_by if name != DAY]
    parts: Iterable[tuple[str, int, int]] = [("", query.from_ms, query.to_ms)]
    if DAY in query.group_by:
        parts = ((day.isoformat(), start, end) for day, start, end in days(query.from_ms, query.to_ms, query.zone))
    sums: defaultdict[tuple[str, ...], Measures] = defaultdict(Measures)
    for day, start, end in parts:
        for events in journal.usage(start, end, by, query.tenant):
            sums[_group(query.group_by, events, day)] += _measure(events)
    if not query.group_by:
        sums[()] += Measures()  # one row, also when nothing happened
    return UsageReport(query=query, rows=tuple(sorted(sums.items())))


def _inert(value: str | int) -> str | int:
    """Keep a spreadsheet from running what a client called a model: formulas begin with one of these."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _group(group_by: tuple[str, ...], events: UsageSum, day: str) -> tuple[str, ...]:
    return tuple(day if name == DAY else getattr(events, name) for name in group_by)


def _measure(events: UsageSum) -> Measures:
    def if_so(is_so: bool) -> int:
        return events.requests if is_so else 0

    return Measures(
        requests=events.requests,
        completed=if_so(events.outcome == Outcome.COMPLETED.label),
        denied=if_so(events.outcome in DENIALS),
        exact=if_so(events.flag == Flag.EXACT.value),
        delivered=if_so(events.flag == Flag.DELIVERED.value),
        interrupted=if_so(events.flag == Flag.INTERRUPTED.value),
        prompt_tokens=events.prompt_tokens,
        cached_tokens=events.cached_tokens,
        completion_tokens=events.completion_tokens,
        reasoning_tokens=events.reasoning_tokens,
        total_tokens=events.prompt_tokens + events.completion_tokens,
    )
