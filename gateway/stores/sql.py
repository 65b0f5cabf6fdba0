"""The Journal in SQL: one code for SQLite and PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Table, func, select

from gateway.core.prices import PriceVersion
from gateway.core.statement import UsageSum
from gateway.core.usage import MeterEvent
from gateway.ports.journal import Appended, EngineReading, WorkerUsage
from gateway.stores.database import Database
from gateway.stores.schema import engine_readings, meter_events, tenants, usage_lines
from gateway.stores.sql_ledger import Ledger, read_prices
from gateway.stores.sql_reader import UsageQuestion, read_usage


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
        self, from_ms: int, to_ms: int, by: Collection[str] = (), *, tenant: str | None = None, key: str | None = None
    ) -> Sequence[UsageSum]:
        return self.usage_of_parts([(from_ms, to_ms)], by, tenant=tenant, key=key)[0]

    def usage_of_parts(
        self,
        parts: Sequence[tuple[int, int]],
        by: Collection[str] = (),
        *,
        tenant: str | None = None,
        key: str | None = None,
    ) -> Sequence[Sequence[UsageSum]]:
        question = UsageQuestion(by=by, tenant=tenant, key=key)
        with self._database.reading() as connection:
            return [read_usage(connection, from_ms, to_ms, question) for from_ms, to_ms in parts]

    def prices_of(self, ids: Collection[str]) -> Mapping[str, PriceVersion]:
        with self._database.reading() as connection:
            return read_prices(connection, ids)

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
        seen = select(usage_lines.c.id).where(usage_lines.c.tenant == tenant).limit(1)
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
