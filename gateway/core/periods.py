"""
When a budget's periods begin and end: at midnights of its zone, so that a day may have 23 or 25 hours.

A request belongs to the period in which it arrived. A period is named by its first moment; the one for ever by 0.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from gateway.core.budgets import Period
from gateway.core.zones import first_moment, local_time


@dataclass(frozen=True, slots=True)
class Span:
    """One period, [from_ms, to_ms); *to_ms* None: it never ends."""

    from_ms: int
    to_ms: int | None

    def __contains__(self, at_ms: int) -> bool:
        return self.from_ms <= at_ms and (self.to_ms is None or at_ms < self.to_ms)


FOR_EVER = Span(0, None)


class Calendar:
    """Finds periods of one zone. Those it found last are remembered: nearly all requests fall into them."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._last: dict[str, Span] = {Period.TOTAL.value: FOR_EVER}

    def span(self, period: str, at_ms: int) -> Span:
        """Give the *period* (a label of `Period`) that *at_ms* lies in."""
        found = self._last.get(period)
        if found is None or at_ms not in found:
            self._last[period] = found = self._find(Period(period), at_ms)
        return found

    def _find(self, period: Period, at_ms: int) -> Span:
        if period is Period.TOTAL:
            return FOR_EVER
        day = local_time(at_ms, self._zone).date()
        first = day.replace(day=1) if period is Period.MONTH else day
        after = _after(first, period)
        if at_ms >= first_moment(after, self._zone):  # set back over midnight, clocks showed yesterday's date again
            first, after = after, _after(after, period)
        return Span(first_moment(first, self._zone), first_moment(after, self._zone))


def _after(first: date, period: Period) -> date:
    """Give the first day of the period after the one that begins with *first*."""
    return (first + timedelta(days=31)).replace(day=1) if period is Period.MONTH else first + timedelta(days=1)


@lru_cache(maxsize=64)
def calendar(zone: str) -> Calendar:
    """Give the calendar of a zone by its IANA name, which must be known. One for all who ask."""
    return Calendar(ZoneInfo(zone))


def account(budget: str, period_ms: int) -> str:
    """Name what a budget has spent in one of its periods, wherever that is counted."""
    return f"{budget}@{period_ms}"
