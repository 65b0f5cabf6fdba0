"""A Directory in SQLite."""

import pytest

from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql_directory import SqlDirectory


@pytest.fixture
def directory(tmp_path):
    url = f"sqlite:///{tmp_path / 'sluice.db'}"
    migrate(url)
    database = Database(url)
    yield SqlDirectory(database)
    database.close()
