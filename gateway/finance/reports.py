"""
The usage report: what was asked of us, and what it costs, over any interval, in any zone.

A report is a query on the Journal: its totals are the sums of its rows, and those are sums of events. A request belongs
to the interval in which it arrived. Amounts are sums of lines, each rounded once (core/statement.py); a line belongs to
one row.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self
from zoneinfo import ZoneInfo

from gateway.core.money import format_nano, format_scaled
from gateway.core.outcome import Outcome
from gateway.core.prices import PriceVersion, Unit
from gateway.core.rating import quantities
from gateway.core.statement import Line, Statement, UsageSum, rating_price, statement
from gateway.core.usage import Flag
from gateway.core.zones import days, hours, local_time
from gateway.errors import InvalidInput
from gateway.ports.journal import JournalReader

DAY, HOUR = "day", "hour"
GROUPS = ("tenant", "project", "key", "model", "pool", "class", "price", DAY, HOUR)
DAYS_MAX_BY_DAY, DAYS_MAX_BY_HOUR = 3700, 62  # ten years; two months: each part is a query or three

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
    final usage; what had been delivered when the stream was cut; what was noted last when a gateway died. *estimated*
    were counted by the gateway itself. *unpriced* came back from an engine, but no price was in force for them.
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
    images: int = 0
    audio_ms: int = 0
    estimated: int = 0
    unpriced_requests: int = 0
    unpriced_tokens: int = 0

    def __add__(self, other: Self) -> "Measures":
        return Measures(**{name: getattr(self, name) + getattr(other, name) for name in MEASURES})


MEASURES = tuple(field.name for field in fields(Measures))
AMOUNT = ("amount", "amount_nano", "currency")
# Price books have the price of a million tokens, an image, a second of audio; here it is one of a unit, in femto-units.
_DECIMALS = {Unit.IMAGE: 15, Unit.AUDIO: 12}
LINE = ("price", "tier", "batch_factor", "unit", "quantity", "unit_price", *AMOUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which events, [from_ms, to_ms) by arrival, and by what their sums are taken."""

    from_ms: int
    to_ms: int
    zone: ZoneInfo
    group_by: tuple[str, ...] = ()
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One group, its values in the order of `UsageQuery.group_by`, with the lines that its amount is the sum of.

    A group that was charged in several currencies has a row for each. *currency* is empty if nothing was charged.
    """

    group: tuple[str, ...]
    currency: str = ""
    measures: Measures
    lines: tuple[Line, ...] = ()

    @property
    def amount_nano(self) -> int:
        return sum(line.charge.nano for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Rows in the order of their groups, then of their currencies."""

    query: UsageQuery
    rows: tuple[Row, ...]

    @property
    def totals(self) -> Measures:
        """The sum of all rows."""
        return sum((row.measures for row in self.rows), Measures())

    @property
    def amounts_nano(self) -> dict[str, int]:
        """The sum of all rows' amounts, by currency."""
        amounts = dict.fromkeys(sorted({row.currency for row in self.rows if row.currency}), 0)
        for row in self.rows:
            if row.currency:
                amounts[row.currency] += row.amount_nano
        return amounts

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of a row's values."""
        return (*self.query.group_by, *MEASURES, *AMOUNT)

    @property
    def line_columns(self) -> tuple[str, ...]:
        """The names of a line's values."""
        return (*self.query.group_by, *(name for name in LINE if name not in self.query.group_by))

    def records(self) -> list[dict[str, str | int]]:
        """Give the rows as mappings from column to value."""
        return [
            {**self._named(row), **asdict(row.measures), **_amount(row.amount_nano, row.currency)} for row in self.rows
        ]

    def line_records(self) -> list[dict[str, str | int]]:
        """Give the lines of all rows as mappings from column to value."""
        return [{**self._named(row), **_line(line)} for row in self.rows for line in row.lines]

    def to_csv(self, *, lines: bool = False) -> str:
        """
        Give the rows, or their lines, as CSV with names on top.

        There are no totals in it, so that summing a column counts once.
        """
        columns, records = (self.line_columns, self.line_records()) if lines else (self.columns, self.records())
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _inert(value) for name, value in record.items()} for record in records)
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
            "lines": self.line_records(),
            "totals": asdict(self.totals),
            "amounts": [_amount(nano, currency) for currency, nano in self.amounts_nano.items()],
        }

    def _named(self, row: Row) -> dict[str, str]:
        return dict(zip(self.query.group_by, row.group, strict=True))


def parse_groups(text: str) -> tuple[str, ...]:
    """Read groups with commas between them; raises InvalidInput naming the one that there is not."""
    groups = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in groups:
        if name not in GROUPS:
            raise InvalidInput(f"There is no group {name!r}. Group by any of {', '.join(GROUPS)}.")
    return groups


def usage_report(journal: JournalReader, query: UsageQuery) -> UsageReport:
    """
    Sum the Journal. Blocking. Raises InvalidInput for a tenant that never was or too many parts, StoreUnavailable.

    Days and hours are summed each by itself: whatever a zone does with its clocks, their bounds are instants.
    """
    if query.tenant is not None and not journal.knows_tenant(query.tenant):
        raise InvalidInput(f"There is no tenant {query.tenant!r}, nor was there ever. See `sluice tenants list`.")
    _check_length(query)
    parts = list(_parts(query))
    bounds = [(start, end) for _, start, end in parts]
    answers = journal.usage_of_parts(bounds, query.group_by, tenant=query.tenant)
    groups: defaultdict[tuple[str, ...], list[UsageSum]] = defaultdict(list)
    for (times, _, _), sums in zip(parts, answers, strict=True):
        for each in sums:
            groups[_group(query.group_by, each, times)].append(each)
    if not query.group_by and not groups:
        groups[()] = []  # one row, also when nothing happened
    prices = journal.prices_of({each.price for sums in groups.values() for each in sums if each.price})
    rows = (row for group, sums in sorted(groups.items()) for row in _rows(group, sums, prices))
    return UsageReport(query=query, rows=tuple(rows))


def _check_length(query: UsageQuery) -> None:
    name, days_max = (HOUR, DAYS_MAX_BY_HOUR) if HOUR in query.group_by else (DAY, DAYS_MAX_BY_DAY)
    length = -(-(query.to_ms - query.from_ms) // 86_400_000)
    if name in query.group_by and length > days_max:
        advice = "Shorten it, or group by day." if name == HOUR else "Shorten it, or leave day out."
        raise InvalidInput(f"The interval has {length} days; by {name} a report has at most {days_max}. {advice}")


def _parts(query: UsageQuery) -> Iterator[tuple[dict[str, str], int, int]]:
    """Cut the interval by what time is grouped by: each part's values of these groups, its beginning and its end."""
    if DAY not in query.group_by and HOUR not in query.group_by:
        yield {}, query.from_ms, query.to_ms
        return
    for day, start, end in days(query.from_ms, query.to_ms, query.zone):
        if HOUR not in query.group_by:
            yield {DAY: day.isoformat()}, start, end
            continue
        for hour, first, last in hours(start, end, query.zone):
            yield {DAY: day.isoformat(), HOUR: hour.isoformat(timespec="minutes")}, first, last


def _group(group_by: tuple[str, ...], events: UsageSum, times: Mapping[str, str]) -> tuple[str, ...]:
    def value(name: str) -> str:
        if name in times:
            return times[name]
        found: str = getattr(events, "service_class" if name == "class" else name)
        return found

    return tuple(map(value, group_by))


def _rows(group: tuple[str, ...], sums: Sequence[UsageSum], prices: Mapping[str, PriceVersion]) -> Iterator[Row]:
    """Make a group's row, or one for each currency; what was charged in none goes with the first."""
    by_currency: defaultdict[str, list[UsageSum]] = defaultdict(list)
    for each in sums:
        by_currency[_currency(each, prices)].append(each)
    free = by_currency.pop("", [])
    for currency in sorted(by_currency) or [""]:
        mine, free = free + by_currency.get(currency, []), []
        stated = statement(mine, prices)
        measures = sum(map(_measure, mine), _unpriced(stated))
        yield Row(group=group, currency=currency, measures=measures, lines=stated.lines)


def _currency(each: UsageSum, prices: Mapping[str, PriceVersion]) -> str:
    price = rating_price(each, prices)
    return price.currency if price and quantities(each) else ""


def _unpriced(stated: Statement) -> Measures:
    return Measures(unpriced_requests=stated.unpriced_requests, unpriced_tokens=stated.unpriced_tokens)


def _amount(nano: int, currency: str) -> dict[str, str | int]:
    return {"amount": format_nano(nano), "amount_nano": nano, "currency": currency}


def _line(line: Line) -> dict[str, str | int]:
    charge = line.charge
    return {
        "price": line.price.id,
        "tier": line.tier,
        "batch_factor": "yes" if line.is_batch else "no",
        "unit": charge.unit.value,
        "quantity": charge.quantity,
        "unit_price": format_scaled(line.femto_each, _DECIMALS.get(charge.unit, 9)),
        **_amount(charge.nano, line.price.currency),
    }


def _inert(value: str | int) -> str | int:
    """Keep a spreadsheet from running what a client called a model: formulas begin with one of these."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


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
        images=events.images,
        audio_ms=events.audio_ms,
        estimated=if_so(events.flag == Flag.ESTIMATED.value),
    )
