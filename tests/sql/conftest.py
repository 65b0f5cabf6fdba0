"""Every test here that asks for `database_url` runs on SQLite and on PostgreSQL."""

import pytest

from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from tests.sql.budgeting import PRICES


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request, tmp_path):
    """The URL of an empty database."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path / 'sluice.db'}"


@pytest.fixture
def database_url(empty_url):
    """The URL of a database with the tables in it."""
    migrate(empty_url)
    return empty_url


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def journal(database):
    return SqlJournal(database)


@pytest.fixture
def directory(database):
    return SqlDirectory(database)


@pytest.fixture
def store(database):
    """The store of budgets, with prices to rate by."""
    SqlDirectory(database).put_prices(PRICES)
    return SqlBudgets(database)
