"""The Journal and the Directory in SQL: one code for SQLite and PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.core.directory import Changes, Key, Model, Tenant
from gateway.core.usage import MeterEvent
from gateway.errors import AlreadyExists, NotFoundError
from gateway.ports.journal import EngineReading, UsageSum, WorkerUsage
from gateway.stores.database import Database
from gateway.stores.schema import directory_state, engine_readings, keys, meter_events, models, tenants

TEXT_CHARS_MAX = 512  # PostgreSQL indexes at most 2,704 bytes, and some texts are a client's
FETCH_ROWS = 1000  # rows turned into objects at a time, so that other threads get their turn

_Row = TypeVar("_Row", Tenant, Key, Model)
_EVENT_FIELDS = tuple(field.name for field in fields(MeterEvent))
_event_values = attrgetter(*_EVENT_FIELDS)
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


class SqlJournal:
    """The `Journal` and its `JournalReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, events: Sequence[MeterEvent]) -> int:
        return self._insert_new(meter_events, [_event_row(event) for event in events])

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
        statement = _insert(self._database, table).on_conflict_do_nothing()
        with self._database.writing() as connection:
            return connection.exec_driver_sql(str(statement.compile(dialect=connection.dialect)), rows).rowcount


class SqlDirectory:
    """The `DirectoryStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def changes_since(self, version: int) -> Changes | None:
        with self._database.reading() as connection:
            now = connection.execute(select(directory_state.c.version)).scalar_one()
            if now == version:
                return None
            above = version if version < now else -1
            return Changes(
                version=now,
                tenants=tuple(_all(connection, Tenant, select(tenants).where(tenants.c.version > above))),
                keys=tuple(_all(connection, Key, select(keys).where(keys.c.version > above))),
                models=tuple(_all(connection, Model, select(models).where(models.c.version > above))),
            )

    def put_tenant(self, tenant: Tenant, *, must_be_new: bool = False) -> None:
        with self._database.writing() as connection:
            version = _next_version(connection)
            if must_be_new and _exists(connection, tenant.id):
                raise AlreadyExists(f"There is a tenant {tenant.id!r} already. Choose another name or id.")
            self._put(connection, tenants, asdict(tenant), version)

    def change_tenant(self, tenant_id: str, **values: Any) -> Tenant:
        with self._database.writing() as connection:
            connection.execute(select(directory_state.c.version).with_for_update())  # where writers queue up
            found = _all(connection, Tenant, select(tenants).where(tenants.c.id == tenant_id))
            if not found:
                raise _no_tenant(tenant_id)
            changed = replace(found[0], **values)
            if changed != found[0]:
                self._put(connection, tenants, asdict(changed), _next_version(connection))
            return changed

    def put_key(self, key: Key) -> None:
        with self._database.writing() as connection:
            version = _next_version(connection)
            if not _exists(connection, key.tenant):
                raise _no_tenant(key.tenant)
            self._put(connection, keys, asdict(key), version)

    def put_model(self, model: Model) -> None:
        with self._database.writing() as connection:
            self._put(connection, models, asdict(model), _next_version(connection))

    def tenant(self, tenant_id: str) -> Tenant | None:
        return next(iter(self._read(Tenant, select(tenants).where(tenants.c.id == tenant_id))), None)

    def key(self, key_id: str) -> Key | None:
        return next(iter(self._read(Key, select(keys).where(keys.c.id == key_id))), None)

    def model(self, name: str) -> Model | None:
        return next(iter(self._read(Model, select(models).where(models.c.name == name))), None)

    def tenants(self) -> Sequence[Tenant]:
        return self._read(Tenant, select(tenants).order_by(tenants.c.name, tenants.c.id))

    def keys(self, tenant: str | None = None) -> Sequence[Key]:
        query = select(keys).order_by(keys.c.created_ms.desc(), keys.c.id.desc())
        return self._read(Key, query if tenant is None else query.where(keys.c.tenant == tenant))

    def models(self) -> Sequence[Model]:
        return self._read(Model, select(models).order_by(models.c.name))

    def _read(self, row_type: type[_Row], query: Select[Any]) -> Sequence[_Row]:
        with self._database.reading() as connection:
            return _all(connection, row_type, query)

    def _put(self, connection: Connection, table: Table, row: dict[str, Any], version: int) -> None:
        values = {**row, "version": version}
        key = [column.name for column in table.primary_key]
        statement = _insert(self._database, table).values(values)
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=values))


def _insert(database: Database, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Both dialects spell ON CONFLICT alike, but SQLAlchemy has it twice."""
    return postgresql.insert(table) if database.dialect == "postgresql" else sqlite.insert(table)


def _next_version(connection: Connection) -> int:
    """Raise the directory's version. The row's lock makes writers queue up here, so versions commit in order."""
    statement = update(directory_state).values(version=directory_state.c.version + 1)
    version: int = connection.execute(statement.returning(directory_state.c.version)).scalar_one()
    return version


def _no_tenant(tenant_id: str) -> NotFoundError:
    return NotFoundError(f"There is no tenant {tenant_id!r}. See `sluice tenants list`.")


def _exists(connection: Connection, tenant_id: str) -> bool:
    return connection.execute(select(tenants.c.id).where(tenants.c.id == tenant_id)).first() is not None


def _all(connection: Connection, row_type: type[_Row], query: Select[Any]) -> list[_Row]:
    names = [field.name for field in fields(row_type)]
    result = connection.execute(query.with_only_columns(*(query.selected_columns[name] for name in names)))
    return [row_type(**dict(zip(names, row, strict=True))) for rows in result.partitions(FETCH_ROWS) for row in rows]


def _sum(name: str) -> Any:
    return func.coalesce(func.sum(meter_events.c[name]), 0).label(name)


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Give a row's values with its numbers as integers: PostgreSQL sums bigints to decimals."""
    return {name: value if isinstance(value, str) else int(value) for name, value in row.items()}


def _event_row(event: MeterEvent) -> dict[str, Any]:
    values = (_storable(value) if isinstance(value, str) else value for value in _event_values(event))
    return dict(zip(_EVENT_FIELDS, values, strict=True))


def _storable(text: str) -> str:
    """Make any text one that every database takes: a client's model name must not hold up everybody's events."""
    if text.isascii() and text.isprintable() and len(text) <= TEXT_CHARS_MAX:
        return text
    return text[:TEXT_CHARS_MAX].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
