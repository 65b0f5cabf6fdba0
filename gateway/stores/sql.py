"""The Journal in SQL: one code for SQLite and PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Table, func, select

from gateway.core.usage import MeterEvent
from gateway.ports.journal import Appended, EngineReading, UsageSum, WorkerUsage
from gateway.stores.database import Database
from gateway.stores.schema import engine_readings, meter_events, tenants
from gateway.stores.sql_ledger import Ledger

_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


class SqlJournal:
    """The `Journal` and its `JournalReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ledger = Ledger(database)

    def append(self, events: Sequence[MeterEvent]) -> Appended:
        return self._ledger.append(events)

    def append_readings(self, readings: Sequence[EngineReading]) -> None:
        self._insert_new(engine_readings, [asdict(reading) for reading in readings])

    def usage(
        self, from_ms: int, to_ms: int, by: Collection[str] = (), tenant: str | None = None
    ) -> Sequence[UsageSum]:
        at = meter_events.c.arrived_ms
        groups = [meter_events.c[name] for name in ("tenant", "key", "model") if name in by]
        groups += [meter_events.c.outcome, meter_events.c.flag]
        query = (
            select(*groups, func.count().label("requests"), *map(_sum, _TOKENS))
            .where(from_ms <= at, at < to_ms)
            .group_by(*groups)
        )
        if tenant is not None:
            query = query.where(meter_events.c.tenant == tenant)
        with self._database.reading() as connection:
            return [UsageSum(**_plain(row)) for row in connection.execute(query).mappings()]

    def usage_by_worker(self, from_ms: int, to_ms: int, worker: str | None = None) -> Mapping[str, WorkerUsage]:
        at = meter_events.c.ended_ms
        sums = map(_sum, ("prompt_tokens", "completion_tokens", "undelivered_tokens"))
        query = (
            select(meter_events.c.worker, func.count(), *sums)
            .where(from_ms <= at, at < to_ms, meter_events.c.worker != "")
            .group_by(meter_events.c.worker)
        )
        if worker is not None:
            query = query.where(meter_events.c.worker == worker)
        with self._database.reading() as connection:
            return {name: WorkerUsage(*map(int, numbers)) for name, *numbers in connection.execute(query)}

    def readings_at(self, at_ms: int) -> Sequence[EngineReading]:
        all_of = engine_readings.c
        last = (
            select(all_of.worker, all_of.started_ms, func.max(all_of.read_ms).label("read_ms"))
            .where(all_of.read_ms <= at_ms)
            .group_by(all_of.worker, all_of.started_ms)
            .subquery()
        )
        is_last = (
            (all_of.worker == last.c.worker)
            & (all_of.started_ms == last.c.started_ms)
            & (all_of.read_ms == last.c.read_ms)
        )
        query = select(engine_readings).join(last, is_last).order_by(all_of.worker, all_of.started_ms)
        with self._database.reading() as connection:
            return [EngineReading(**row) for row in connection.execute(query).mappings()]

    def knows_tenant(self, tenant: str) -> bool:
        declared = select(tenants.c.id).where(tenants.c.id == tenant)
        seen = select(meter_events.c.id).where(meter_events.c.tenant == tenant).limit(1)
        with self._database.reading() as connection:
            return any(connection.execute(query).first() for query in (declared, seen))

    def _insert_new(self, table: Table, rows: list[dict[str, Any]]) -> int:
        """
        Insert the rows whose keys are not there yet; gives how many.

        The driver's own executemany takes half of SQLAlchemy's time, and on PostgreSQL alone knows the count.
        """
        if not rows:
            return 0
        statement = self._database.insert(table).on_conflict_do_nothing()
        with self._database.writing() as connection:
            return connection.exec_driver_sql(str(statement.compile(dialect=connection.dialect)), rows).rowcount


def _sum(name: str) -> Any:
    return func.coalesce(func.sum(meter_events.c[name]), 0).label(name)


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Give a row's values with its numbers as integers: PostgreSQL sums bigints to decimals."""
    return {name: value if isinstance(value, str) else int(value) for name, value in row.items()}
