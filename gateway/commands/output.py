"""How verbs print facts: a table for people, JSON for programs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 1000  # wider than any table of ours

Format = Annotated[Literal["table", "json"], typer.Option("--format", help="For people or for programs.")]
ReportFormat = Annotated[
    Literal["table", "csv", "json"], typer.Option("--format", help="For people, spreadsheets or programs.")
]


def print_json(value: object) -> None:
    """Print *value* as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str], records: Iterable[Mapping[str, Any]], totals: Mapping[str, Any] | None = None
) -> None:
    """
    Print one line per record; numbers to the right. *totals* make a last line, after a rule.

    Nothing is cut or folded to a terminal's width: ids must come out whole, also into a pipe.
    """
    rows = list(records)
    sample = totals or (rows[0] if rows else {})
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        header = name.replace("_", "\n" if name.endswith("_tokens") else " ")
        table.add_column(header, justify="right" if _is_number(sample.get(name)) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    if totals is not None:
        table.add_section()
        table.add_row(*(_cell(totals.get(name, "")) for name in columns), style="bold")
    Console(width=WIDTH).print(table, soft_wrap=True)


def print_records(columns: Sequence[str], records: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print records as a table of *columns*, or all their fields as JSON."""
    if output == "json":
        print_json(list(records))
    else:
        print_table(columns, records)


def print_record(columns: Sequence[str], record: Mapping[str, Any], output: str) -> None:
    """Print one record as a table of *columns*, or all its fields as a JSON object."""
    if output == "json":
        print_json(dict(record))
    else:
        print_table(columns, [record])


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _cell(value: object) -> Text:
    if value is None or value == "":
        return Text("–")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(f"{value:,}" if isinstance(value, int) else str(value))
