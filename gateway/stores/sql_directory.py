"""The Directory in SQL: one code for SQLite and PostgreSQL."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, select, update

from gateway.core.budgets import Budget
from gateway.core.directory import Changes, Key, Model, Tenant, model_from_row, model_to_row
from gateway.core.limits import Limit
from gateway.core.pools import PoolSpec, pool_from_row
from gateway.core.prices import PriceVersion, price_from_row, price_to_row
from gateway.errors import AlreadyExists, NotFoundError
from gateway.stores.database import Database
from gateway.stores.schema import budgets, directory_state, keys, limits, models, pools, prices, tenants
from gateway.stores.sql_budgets import is_counted, open_budget

FETCH_ROWS = 1000  # rows turned into objects at a time, so that other threads get their turn

_Row = TypeVar("_Row", Tenant, Key, Model, PriceVersion, Limit, Budget, PoolSpec)
_PRICES = select(prices).order_by(prices.c.model, prices.c.from_ms, prices.c.id)
_MAKERS: Mapping[type, Callable[..., Any]] = MappingProxyType(
    {PriceVersion: price_from_row, Model: model_from_row, PoolSpec: pool_from_row}
)
_COLUMNS: Mapping[type, tuple[str, ...]] = MappingProxyType({PoolSpec: ("name", "is_removed", "spec")})


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
                tenants=tuple(read_rows(connection, Tenant, select(tenants).where(tenants.c.version > above))),
                keys=tuple(read_rows(connection, Key, select(keys).where(keys.c.version > above))),
                models=tuple(read_rows(connection, Model, select(models).where(models.c.version > above))),
                prices=tuple(read_rows(connection, PriceVersion, select(prices).where(prices.c.version > above))),
                limits=tuple(read_rows(connection, Limit, select(limits).where(limits.c.version > above))),
                budgets=tuple(read_rows(connection, Budget, select(budgets).where(budgets.c.version > above))),
                pools=tuple(read_rows(connection, PoolSpec, select(pools).where(pools.c.version > above))),
            )

    def put_tenant(self, tenant: Tenant, *, must_be_new: bool = False) -> None:
        with self._database.writing() as connection:
            version = next_version(connection)
            if must_be_new and _exists(connection, tenant.id):
                raise AlreadyExists(f"There is a tenant {tenant.id!r} already. Choose another name or id.")
            self._put(connection, tenants, asdict(tenant), version)

    def change_tenant(self, tenant_id: str, **values: Any) -> Tenant:
        with self._database.writing() as connection:
            connection.execute(select(directory_state.c.version).with_for_update())  # where writers queue up
            found = read_rows(connection, Tenant, select(tenants).where(tenants.c.id == tenant_id))
            if not found:
                raise _no_tenant(tenant_id)
            changed = replace(found[0], **values)
            if changed != found[0]:
                self._put(connection, tenants, asdict(changed), next_version(connection))
            return changed

    def put_key(self, key: Key) -> None:
        with self._database.writing() as connection:
            version = next_version(connection)
            if not _exists(connection, key.tenant):
                raise _no_tenant(key.tenant)
            self._put(connection, keys, asdict(key), version)

    def put_model(self, model: Model) -> None:
        with self._database.writing() as connection:
            self._put(connection, models, model_to_row(model), next_version(connection))

    def put_prices(self, versions: Sequence[PriceVersion], *, seen: Sequence[PriceVersion] | None = None) -> None:
        with self._database.writing() as connection:
            version = next_version(connection)
            if seen is not None and list(seen) != read_rows(connection, PriceVersion, _PRICES):
                raise AlreadyExists("Somebody else changed the prices just now. Look at what changes, and try again.")
            rows = [price_to_row(each) for each in versions]
            put_rows(self._database, connection, prices, rows, version)

    def put_limit(self, limit: Limit) -> None:
        with self._database.writing() as connection:
            self._put(connection, limits, asdict(limit), next_version(connection))

    def put_budget(self, budget: Budget) -> None:
        with self._database.writing() as connection:
            version = next_version(connection)
            is_known = is_counted(connection, budget)
            self._put(connection, budgets, asdict(budget), version)
            if not is_known and not budget.is_removed:
                open_budget(connection, self._database, budget, time.time_ns() // 1_000_000)

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

    def prices(self) -> Sequence[PriceVersion]:
        return self._read(PriceVersion, _PRICES)

    def limits(self) -> Sequence[Limit]:
        return self._read(Limit, select(limits).order_by(limits.c.scope, limits.c.subject, limits.c.id))

    def budgets(self) -> Sequence[Budget]:
        return self._read(Budget, select(budgets).order_by(budgets.c.tenant, budgets.c.subject, budgets.c.id))

    def _read(self, row_type: type[_Row], query: Select[Any]) -> Sequence[_Row]:
        with self._database.reading() as connection:
            return read_rows(connection, row_type, query)

    def _put(self, connection: Connection, table: Table, row: dict[str, Any], version: int) -> None:
        put_rows(self._database, connection, table, [row], version)


def next_version(connection: Connection) -> int:
    """Raise the directory's version. The row's lock makes writers queue up here, so versions commit in order."""
    statement = update(directory_state).values(version=directory_state.c.version + 1)
    version: int = connection.execute(statement.returning(directory_state.c.version)).scalar_one()
    return version


def put_rows(
    database: Database, connection: Connection, table: Table, rows: Sequence[dict[str, Any]], version: int
) -> None:
    """Create or replace rows by their key, all in one batch: one by one, a large book outlasts the time limit."""
    if not rows:
        return
    statement = database.insert(table)
    key = [column.name for column in table.primary_key]
    changed = {column.name: statement.excluded[column.name] for column in table.columns}
    upsert = statement.on_conflict_do_update(index_elements=key, set_=changed)
    connection.execute(upsert, [{**row, "version": version} for row in rows])


def _no_tenant(tenant_id: str) -> NotFoundError:
    return NotFoundError(f"There is no tenant {tenant_id!r}. See `sluice tenants list`.")


def _exists(connection: Connection, tenant_id: str) -> bool:
    return connection.execute(select(tenants.c.id).where(tenants.c.id == tenant_id)).first() is not None


def read_rows(connection: Connection, row_type: type[_Row], query: Select[Any]) -> list[_Row]:
    """Make values of the rows that *query* on their table finds."""
    names = _COLUMNS.get(row_type) or tuple(field.name for field in fields(row_type))
    result = connection.execute(query.with_only_columns(*(query.selected_columns[name] for name in names)))
    make = _MAKERS.get(row_type, row_type)
    return [make(**dict(zip(names, row, strict=True))) for rows in result.partitions(FETCH_ROWS) for row in rows]
