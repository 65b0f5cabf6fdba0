"""
The months of the Journal on PostgreSQL: one partition of `meter_events` for each month (UTC) in which requests arrived.

A month's partition is made before its first event is written, and the next month's with it. There is no default
partition for months that were forgotten: a write without its partition fails, and its events stay in the spool. Two
more hold what lies outside 2020 to 2099, times that only a wrong clock shows. `migrate` makes those.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from gateway.stores.database import Database

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MS, _LAST_MS = 1_577_836_800_000, 4_102_444_800_000  # 2020-01-01 and 2100-01-01
_DAY_MS = 86_400_000
_DAYS_AHEAD = 20  # any day of a month plus so many is in it or the next
_LOCK = 0x51_1C_E1  # the next after that of schema.py


class Partitions:
    """Makes partitions that are missing. Safe for threads, and beside other gateways."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made: set[datetime] = set()

    def __repr__(self) -> str:
        return f"<Partitions {len(self._made)} months known>"

    def ensure(self, arrived_ms: Iterable[int]) -> None:
        """
        Make the partitions for these times, and the one ahead of each. Raises StoreUnavailable.

        In a transaction of its own: a partition that is attached waits for no writer, and none waits for it.
        """
        if self._database.dialect != "postgresql":
            return
        days = {at // _DAY_MS for at in arrived_ms if _FIRST_MS <= at < _LAST_MS}
        months = {_month(_EPOCH + timedelta(days=day + ahead)) for day in days for ahead in (0, _DAYS_AHEAD)}
        missing = sorted(month for month in months - self._made if _to_ms(month) < _LAST_MS)
        if missing:
            self._make(missing)
            self._made.update(missing)

    def forget(self) -> None:
        """Look again before the next write: an operator may have archived a month and dropped its partition."""
        self._made.clear()

    def _make(self, months: Iterable[datetime]) -> None:
        with self._database.writing() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            for month in months:
                name = f"meter_events_{month:%Y_%m}"
                if connection.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar_one() is None:
                    first, last = _to_ms(month), _to_ms(_month(month + timedelta(days=31)))
                    connection.execute(text(f"CREATE TABLE {name} (LIKE meter_events INCLUDING DEFAULTS)"))
                    values = f"FOR VALUES FROM ({first}) TO ({last})"
                    connection.execute(text(f"ALTER TABLE meter_events ATTACH PARTITION {name} {values}"))


def _month(moment: datetime) -> datetime:
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def _to_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
