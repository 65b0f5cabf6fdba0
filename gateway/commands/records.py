"""The database as verbs use it: at once, without a gateway."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gateway.settings import Settings, load_settings
from gateway.stores.database import Database
from gateway.stores.schema import check_schema

REPORT_TIMEOUT_S = 300.0  # a year of a busy journal takes its time, and nobody else waits for it

Home = Annotated[Path | None, typer.Option(help="The home of `sluice up`. Default: .sluice.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="The database, if it is not the one under --home.")]


@contextmanager
def open_database(
    home: Path | None, database_url: str | None, timeout_s: float | None = None, config: Path | None = None
) -> Iterator[tuple[Settings, Database]]:
    """Open the database that the settings, or these options, name. Raises InvalidInput if it has not our tables."""
    settings = load_settings(config=config, home=home, database_url=database_url)
    database = Database(settings.sql_url, timeout_s=timeout_s or settings.database_timeout_s)
    try:
        check_schema(database)
        yield settings, database
    finally:
        database.close()


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
