"""`sluice reconcile`: engines' counters against the Journal."""

from typing import Annotated, Any

import typer

from gateway.commands.output import Format, print_json, print_table
from gateway.commands.records import REPORT_TIMEOUT_S, DatabaseUrl, Home, now_ms, open_database
from gateway.commands.report import From, To, Zone
from gateway.core.zones import load_zone, local_time, parse_interval
from gateway.finance.reconcile import Reconciliation
from gateway.finance.reconcile import reconcile as compare
from gateway.finance.residue import KINDS, Alarm, Line
from gateway.settings import Settings
from gateway.stores.sql_work import SqlWork

PARTS = ("engine", "probe", "metered", "undelivered", "residue", "choices", "carried", "in_flight", "unexplained")
COLUMNS = ("worker", "engine started", "requests", *PARTS)
UNCOVERED = ("worker", "requests", "metered_prompt_tokens", "metered_completion_tokens", "undelivered_tokens")

AlarmRatio = Annotated[
    float | None,
    typer.Option(min=0, help="Fail above this part of an engine's tokens, 0.001 being 0.1 %. Default: the settings'."),
]
AlarmTokens = Annotated[
    int | None, typer.Option(min=0, help="Fail above so many unexplained tokens of a worker. Default: the settings'.")
]


def reconcile(
    start: From = None,
    end: To = None,
    zone: Zone = None,
    alarm_ratio: AlarmRatio = None,
    alarm_tokens: AlarmTokens = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Compare the tokens that engines counted with those that were metered, per worker and engine start.

    residue = engine - probe - metered - undelivered; unexplained = residue - choices - carried - in_flight. `choices`
    are prompts that engines count again for each choice (n), `carried` is what a worker did of streams that were billed
    where they ended, `in_flight` is what requests under way at the window's ends had got, nearly. The rest is what
    engines did for clients that had left and for tries that failed; below zero, more was metered than made, which must
    not be. Requests that have not ended yet are unexplained: let --to be some minutes ago.

    The exit status is 1 if a worker's unexplained tokens pass one of the two limits; why is told on standard error.

    Example: sluice reconcile --from 2026-11-01 --to 2026-12-01 --zone Asia/Shanghai
    """
    with open_database(home, database_url, REPORT_TIMEOUT_S) as (settings, database):
        named = load_zone(zone or settings.zone)
        from_ms, to_ms = parse_interval(start, end, named, now_ms())
        result = compare(SqlWork(database), from_ms, to_ms, named)
    if output == "json":
        print_json(result.to_json())
    else:
        _print(result)
    _exit_if_due(result, _alarm(settings, alarm_ratio, alarm_tokens))


def _alarm(settings: Settings, ratio: float | None, tokens: int | None) -> Alarm:
    limits = settings.reconcile
    return Alarm(limits.alarm_ratio if ratio is None else ratio, limits.alarm_tokens if tokens is None else tokens)


def _exit_if_due(result: Reconciliation, alarm: Alarm) -> None:
    due = [residue for residue in result.residues() if alarm.is_due(residue)]
    for residue in due:
        typer.echo(residue.explain(), err=True)
    if due:
        raise typer.Exit(1)


def _print(result: Reconciliation) -> None:
    totals = result.totals()
    for kind in KINDS:
        typer.echo(f"{kind.capitalize()} tokens")
        records = [{**_parts(line.to_json(), kind), **_names(line, result)} for line in result.lines]
        print_table(COLUMNS, records, {**_parts(totals, kind), "worker": "total"})
    if result.uncovered:
        typer.echo("Metered where there are no readings of the engine to compare with")
        print_table(UNCOVERED, [line.to_json() for line in result.uncovered])


def _parts(tokens: dict[str, Any], kind: str) -> dict[str, int]:
    """Pick the numbers of one kind; undelivered are completion tokens, choices those of prompts."""
    other = {"undelivered": "completion", "choices": "prompt"}
    parts = {part: tokens[f"{part}_{kind}_tokens"] for part in PARTS if part not in other}
    undelivered = tokens["undelivered_tokens"] if kind == "completion" else 0
    choices = tokens["choices_prompt_tokens"] if kind == "prompt" else 0
    return {**parts, "undelivered": undelivered, "choices": choices, "requests": tokens["requests"]}


def _names(line: Line, result: Reconciliation) -> dict[str, str]:
    started = local_time(line.engine_started_ms or 0, result.zone).strftime("%Y-%m-%d %H:%M:%S")
    return {"worker": line.worker, "engine started": started}
