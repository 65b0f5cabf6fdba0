"""`sluice migrate`: the database's tables."""

import typer

from gateway.commands.output import Format, print_json
from gateway.commands.records import DatabaseUrl, Home
from gateway.settings import load_settings
from gateway.stores.schema import migrate as bring_up_to_date


def migrate(home: Home = None, database_url: DatabaseUrl = None, output: Format = "table") -> None:
    """
    Create the tables in the database, or bring them up to date. Safe to run twice, also at the same time.

    Run it before the first gateway of a new version starts.

    Example: sluice migrate --database-url postgresql://sluice@db.example/sluice
    """
    version = bring_up_to_date(load_settings(home=home, database_url=database_url).sql_url)
    if output == "json":
        print_json({"version": version})
    else:
        typer.echo(f"The tables are of version {version}.")
