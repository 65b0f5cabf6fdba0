"""The Journal in SQL: one code for SQLite and PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Table, select

from gateway.core.prices import PriceVersion
from gateway.core.statement import UsageSum
from gateway.core.usage import MeterEvent
from gateway.ports.journal import Appended, EngineReading
from gateway.stores.database import Database
from gateway.stores.schema import engine_readings, meter_events, tenants, usage_lines
from gateway.stores.sql_ledger import Ledger, read_prices
from gateway.stores.sql_reader import UsageQuestion, read_usage

IDS_MAX = 500  # asked for at once
_EVENT_FIELDS = tuple(field.name for field in fields(MeterEvent))


class SqlJournal:
    """The `Journal` and its `JournalReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ledger = Ledger(database)

    def append(self, events: Sequence[MeterEvent]) -> Appended:
        return self._ledger.append(events)

    def append_readings(self, readings: Sequence[EngineReading]) -> None:
        self._insert_new(engine_readings, [asdict(reading) for reading in readings])

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

    def event(self, event_id: str) -> MeterEvent | None:
        query = select(*(meter_events.c[name] for name in _EVENT_FIELDS)).where(meter_events.c.id == event_id)
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else MeterEvent(**row)

    def known(self, event_ids: Sequence[str]) -> Collection[str]:
        batches = [event_ids[at : at + IDS_MAX] for at in range(0, len(event_ids), IDS_MAX)]
        with self._database.reading() as connection:
            return {
                found
                for batch in batches
                for found in connection.execute(select(meter_events.c.id).where(meter_events.c.id.in_(batch))).scalars()
            }

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
