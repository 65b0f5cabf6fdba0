"""`sluice reconcile`: engines' counters against the Journal."""

from typing import Any

import typer

from gateway.commands.output import Format, print_json, print_table
from gateway.commands.records import REPORT_TIMEOUT_S, DatabaseUrl, Home, now_ms, open_database
from gateway.commands.report import From, To, Zone
from gateway.core.zones import load_zone, local_time, parse_interval
from gateway.finance.reconcile import Line, Reconciliation
from gateway.finance.reconcile import reconcile as compare
from gateway.stores.sql import SqlJournal

COLUMNS = ("worker", "engine started", "requests", "engine", "probe", "metered", "undelivered", "residue")
UNCOVERED = ("worker", "requests", "metered_prompt_tokens", "metered_completion_tokens", "undelivered_tokens")


def reconcile(
    start: From = None,
    end: To = None,
    zone: Zone = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Compare the tokens that engines counted with those that were metered, per worker and engine start.

    residue = engine - probe - metered - undelivered. It is what engines made after clients had left; below zero, more
    was metered than made, which must not be. Requests in flight at the ends of a window appear in the next one.

    Example: sluice reconcile --from 2026-11-01 --to 2026-12-01 --zone Asia/Shanghai
    """
    with open_database(home, database_url, REPORT_TIMEOUT_S) as (settings, database):
        named = load_zone(zone or settings.zone)
        from_ms, to_ms = parse_interval(start, end, named, now_ms())
        result = compare(SqlJournal(database), from_ms, to_ms, named)
        if output == "json":
            print_json(result.to_json())
        else:
            _print(result)


def _print(result: Reconciliation) -> None:
    totals = result.totals()
    for kind in ("prompt", "completion"):
        typer.echo(f"{kind.capitalize()} tokens")
        records = [{**_parts(line.to_json(), kind), **_names(line, result)} for line in result.lines]
        print_table(COLUMNS, records, {**_parts(totals, kind), "worker": "total"})
    if result.uncovered:
        typer.echo("Metered where there are no readings of the engine to compare with")
        print_table(UNCOVERED, [line.to_json() for line in result.uncovered])


def _parts(tokens: dict[str, Any], kind: str) -> dict[str, int]:
    parts = {part: tokens[f"{part}_{kind}_tokens"] for part in ("engine", "probe", "metered", "residue")}
    undelivered = tokens["undelivered_tokens"] if kind == "completion" else 0
    return {**parts, "undelivered": undelivered, "requests": tokens["requests"]}


def _names(line: Line, result: Reconciliation) -> dict[str, str]:
    started = local_time(line.engine_started_ms or 0, result.zone).strftime("%Y-%m-%d %H:%M:%S")
    return {"worker": line.worker, "engine started": started}
