"""What `sluice apply` wrote, in SQL: pools, names and prices in one transaction, and the history of that."""

from collections.abc import Sequence
from dataclasses import asdict, fields

from sqlalchemy import Connection, Select, select

from gateway.core.directory import Model, model_to_row
from gateway.core.pools import PoolSpec, pool_to_row
from gateway.core.prices import price_to_row
from gateway.ports.pools import Applied, Declared, Writes
from gateway.stores.database import Database
from gateway.stores.schema import applied as applied_table
from gateway.stores.schema import directory_state, models, pools, prices
from gateway.stores.sql_directory import next_version, put_rows, read_rows

_APPLIED = select(*(applied_table.c[each.name] for each in fields(Applied)))
_NEWEST_FIRST = _APPLIED.order_by(applied_table.c.number.desc())


class SqlPools:
    """The `PoolStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def declared(self) -> Declared:
        with self._database.reading() as connection:
            found = select(pools).where(pools.c.is_removed.is_(False)).order_by(pools.c.name)
            # The version comes first: where statements do not share one view of the rows, they are at least as new.
            return Declared(
                version=connection.execute(select(directory_state.c.version)).scalar_one(),
                pools=tuple(read_rows(connection, PoolSpec, found)),
                models=tuple(read_rows(connection, Model, select(models).order_by(models.c.name))),
                applied=next(iter(_read(connection, _NEWEST_FIRST.limit(1))), None),
            )

    def applied(self, number: int) -> Applied | None:
        with self._database.reading() as connection:
            return next(iter(_read(connection, _APPLIED.where(applied_table.c.number == number))), None)

    def history(self) -> Sequence[Applied]:
        with self._database.reading() as connection:
            return _read(connection, _NEWEST_FIRST)

    def carry_out(self, writes: Writes, applied: Applied, *, at_version: int) -> bool:
        try:
            with self._database.writing() as connection:
                version = _version_after(connection, at_version)
                put_rows(self._database, connection, pools, list(map(pool_to_row, writes.pools)), version)
                put_rows(self._database, connection, models, list(map(model_to_row, writes.models)), version)
                put_rows(self._database, connection, prices, list(map(price_to_row, writes.prices)), version)
                connection.execute(self._database.insert(applied_table), asdict(applied))
        except _Moved:
            return False
        return True


class _Moved(Exception):  # noqa: N818  no error: the transaction is to roll back
    """The Directory is at another version than the one that was decided on."""


def _version_after(connection: Connection, version: int) -> int:
    if (following := next_version(connection)) != version + 1:
        raise _Moved
    return following


def _read(connection: Connection, query: Select[tuple[object, ...]]) -> list[Applied]:
    return [Applied(**row) for row in connection.execute(query).mappings()]
