"""A real Journal in SQLite to ship to, and a way to make it go away."""

import contextlib

import pytest
from sqlalchemy import select, text

from gateway.stores.database import Database
from gateway.stores.schema import meter_events, migrate
from gateway.stores.sql import SqlJournal


class Sql:
    """The Journal, what is in it, and `away()`: while that block runs, another writer holds the database's lock."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, timeout_s=0.1)
        self._other = Database(url, timeout_s=5)
        self.journal = SqlJournal(self.database)

    def rows(self):
        with self._other.reading() as connection:
            return connection.execute(select(meter_events).order_by(meter_events.c.id)).mappings().all()

    def ids(self):
        return [row["id"] for row in self.rows()]

    @contextlib.contextmanager
    def away(self):
        with self._other.writing() as connection:
            connection.execute(text("UPDATE directory_state SET version = version"))
            yield

    def close(self):
        self.database.close()
        self._other.close()


@pytest.fixture
def sql(tmp_path):
    url = f"sqlite:///{tmp_path / 'sluice.db'}"
    migrate(url)
    sql = Sql(url)
    yield sql
    sql.close()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"
