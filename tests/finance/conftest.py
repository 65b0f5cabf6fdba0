"""A Journal in SQLite, and one in PostgreSQL where a test asks for it."""

import pytest

from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_directory import SqlDirectory
from tests.prices import PRICES


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def journal(request, tmp_path):
    """A Journal in a database that has PRICES in its book."""
    sqlite = f"sqlite:///{tmp_path / 'sluice.db'}"
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else sqlite
    migrate(url)
    database = Database(url)
    SqlDirectory(database).put_prices(PRICES)
    yield SqlJournal(database)
    database.close()
