"""A Journal in SQLite, and one in PostgreSQL where a test asks for it."""

import pytest

from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql import SqlJournal


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def journal(request, tmp_path):
    sqlite = f"sqlite:///{tmp_path / 'sluice.db'}"
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else sqlite
    migrate(url)
    database = Database(url)
    yield SqlJournal(database)
    database.close()
