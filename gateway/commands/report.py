"""`sluice report`: what was used, by whom."""

from typing import Annotated

import typer

from gateway.commands.output import ReportFormat, print_json, print_table
from gateway.commands.records import REPORT_TIMEOUT_S, DatabaseUrl, Home, now_ms, open_database
from gateway.core.zones import load_zone, local_time, parse_interval
from gateway.finance.reports import UsageQuery, UsageReport, parse_groups, usage_report
from gateway.stores.sql import SqlJournal

app = typer.Typer(help="Reports over the Journal.", no_args_is_help=True)

From = Annotated[
    str | None,
    typer.Option("--from", help="First moment: 2026-11-01, or 2026-11-01T09:30. Default: this month's first."),
]
To = Annotated[str | None, typer.Option("--to", help="First moment that is no longer in it. Default: now.")]
Zone = Annotated[str | None, typer.Option(help="IANA time zone, such as Asia/Shanghai. Default: that of the settings.")]


@app.callback()
def report() -> None:
    """Reports over the Journal."""


@app.command()
def usage(
    start: From = None,
    end: To = None,
    zone: Zone = None,
    group_by: Annotated[str, typer.Option(help="Any of tenant,key,model,day with commas between.")] = "",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's requests.")] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: ReportFormat = "table",
) -> None:
    """
    Count requests and tokens of the requests that arrived from --from until before --to.

    Dates begin at midnight in --zone. `denied` were refused before any engine saw them. `exact`, `delivered` and
    `interrupted` tell by which rule tokens were counted: the engine's final usage, what had been delivered when the
    stream was cut, or what was noted last before a gateway died. CSV has no line of totals.

    Example: sluice report usage --from 2026-11-01 --to 2026-12-01 --zone Asia/Shanghai --group-by tenant,day
    """
    with open_database(home, database_url, REPORT_TIMEOUT_S) as (settings, database):
        named = load_zone(zone or settings.zone)
        from_ms, to_ms = parse_interval(start, end, named, now_ms())
        groups = parse_groups(group_by)
        query = UsageQuery(from_ms=from_ms, to_ms=to_ms, zone=named, group_by=groups, tenant=tenant)
        _print(usage_report(SqlJournal(database), query), output)


def _print(report: UsageReport, output: str) -> None:
    if output == "json":
        print_json(report.to_json())
    elif output == "csv":
        typer.echo(report.to_csv(), nl=False)
    else:
        query = report.query
        begins, ends = (local_time(at, query.zone).isoformat(sep=" ") for at in (query.from_ms, query.to_ms))
        typer.echo(f"Usage from {begins} until before {ends}, {query.zone.key}")
        totals = report.to_json()["totals"]
        if report.query.group_by:
            totals = {report.query.group_by[0]: "total", **totals}
        print_table(report.columns, report.records(), totals if report.query.group_by else None)
