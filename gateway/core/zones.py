"""Instants and days in a named time zone; instants are Unix milliseconds, intervals half-open."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from gateway.errors import InvalidInput

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def load_zone(name: str) -> ZoneInfo:
    """Find a zone by its IANA name; raises InvalidInput if there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidInput(f"There is no time zone {name!r}. Give an IANA name, such as Asia/Shanghai.") from error


def parse_instant(text: str, zone: ZoneInfo, what: str) -> int:
    """
    Read an ISO 8601 date or date-time; *what* names it in the InvalidInput that is raised for anything else.

    A date is its first moment in *zone*. A date-time is local to *zone* unless it carries an offset of its own; of a
    local time that a clock shows twice, the first is meant.
    """
    try:
        return first_moment(date.fromisoformat(text), zone)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return _to_ms(moment if moment.tzinfo else moment.replace(tzinfo=zone))
    except (ValueError, OverflowError) as error:
        form = "Write 2026-11-01 or 2026-11-01T09:30."
        raise InvalidInput(f"{what} {text!r} is neither a date nor a date-time. {form}") from error


def parse_interval(start: str | None, end: str | None, zone: ZoneInfo, now_ms: int) -> tuple[int, int]:
    """
    Read the two ends of a half-open interval; left out, they are the beginning of this month and now.

    Raises InvalidInput naming the end that is wrong.
    """
    month = local_time(now_ms, zone).date().replace(day=1)
    from_ms = first_moment(month, zone) if start is None else parse_instant(start, zone, "from")
    to_ms = now_ms if end is None else parse_instant(end, zone, "to")
    if from_ms >= to_ms:
        begins, ends = (local_time(at, zone).isoformat() for at in (from_ms, to_ms))
        advice = "The interval is half-open: all of November is from 2026-11-01 to 2026-12-01."
        raise InvalidInput(f"from {begins} is not before to {ends}. {advice}")
    return from_ms, to_ms


def first_moment(day: date, zone: ZoneInfo) -> int:
    """
    Give the instant at which *day* begins in *zone*.

    Where clocks skip midnight, Python reads the missing time by the offset before the jump: the very instant of it.
    """
    return _to_ms(datetime.combine(day, time(), zone))


def days(from_ms: int, to_ms: int, zone: ZoneInfo) -> Iterator[tuple[date, int, int]]:
    """Cut an interval at *zone*'s midnights: each day with its part of the interval."""
    day = local_time(from_ms, zone).date()
    while (begins := first_moment(day, zone)) < to_ms:
        after = day + timedelta(days=1)
        start, end = max(from_ms, begins), min(to_ms, first_moment(after, zone))
        if start < end:  # in a zone that changed sides of the date line, a day may be missing
            yield day, start, end
        day = after


def hours(from_ms: int, to_ms: int, zone: ZoneInfo) -> Iterator[tuple[datetime, int, int]]:
    """
    Cut an interval where *zone*'s clocks show a full hour: each hour's beginning with its part of the interval.

    An hour that clocks skip or repeat in part is as long as they showed it.
    """
    start = from_ms
    while start < to_ms:
        shown = local_time(start, zone)
        hour = shown.replace(minute=0, second=0, microsecond=0)
        end = min(to_ms, start + (hour + timedelta(hours=1) - shown) // timedelta(milliseconds=1))
        yield hour, start, end
        start = end


def local_time(at_ms: int, zone: ZoneInfo) -> datetime:
    """Give an instant as *zone*'s clocks show it."""
    return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone)


def _to_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
