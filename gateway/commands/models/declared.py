"""The names that clients may ask for, and the pools that serve them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.commands.output import Format, print_record, print_records
from gateway.commands.records import DatabaseUrl, Home, now_ms, open_database
from gateway.control.models import declare_model, retire_model
from gateway.core.directory import Model
from gateway.stores.sql_directory import SqlDirectory

COLUMNS = ("name", "pool", "is_from_file", "is_retired")

_Name = Annotated[str, typer.Argument(help="The name in a request's `model`, such as Qwen/Qwen3-8B.", metavar="MODEL")]


def list_declared(home: Path | None, database_url: str | None, output: str) -> None:
    """List all models that are declared, the retired ones too."""
    with open_database(home, database_url) as (_, database):
        models = SqlDirectory(database).models()
        print_records(COLUMNS, [asdict(each) if output == "json" else _row(each) for each in models], output)


def _row(model: Model) -> dict[str, Any]:
    """Show a model in a table: with the share of each pool, where there are several."""
    shares = ", ".join(f"{pool}: {weight}" for pool, weight in model.weights.items())
    return {**asdict(model), "pool": shares or model.pool}


def serve(
    name: _Name,
    pool: Annotated[str | None, typer.Option(help="The pool whose workers serve it. Default: its name.")] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Let clients ask for a model. Its pool's workers serve it as soon as they are ready.

    Example: sluice models serve Qwen/Qwen3-8B --pool chat
    """
    with open_database(home, database_url) as (_, database):
        model = declare_model(SqlDirectory(database), name, pool or name, now_ms=now_ms())
        print_record(COLUMNS, asdict(model), output)


def retire(name: _Name, home: Home = None, database_url: DatabaseUrl = None, output: Format = "table") -> None:
    """Answer 404 to whoever asks for a model from now on."""
    with open_database(home, database_url) as (_, database):
        print_record(COLUMNS, asdict(retire_model(SqlDirectory(database), name)), output)
