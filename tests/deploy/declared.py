"""A tenant, a model and a key, declared in this process: verbs of the command are processes that take a second each."""

import contextlib

from gateway.control.keys import create_key
from gateway.control.models import declare_model
from gateway.control.tenants import create_tenant
from gateway.stores.database import Database
from gateway.stores.sql_directory import SqlDirectory
from tests.servers.installation import Installation
from tests.servers.prices import version

NOW_MS = 1_700_000_000_000


def declare(place: Installation) -> str:
    """Declare `acme`, the model `tiny` and prices that make fractions; gives a key."""
    with contextlib.closing(Database(place.environ["SLUICE_DATABASE_URL"])) as database:
        directory = SqlDirectory(database)
        directory.put_prices([version()])
        create_tenant(directory, "acme")
        declare_model(directory, "tiny", "tiny", now_ms=NOW_MS)
        return create_key(directory, "acme", now_ms=NOW_MS)[1]
