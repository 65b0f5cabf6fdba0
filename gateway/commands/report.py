"""`sluice report`: what was used, by whom."""

from dataclasses import asdict
from typing import Annotated

import typer

from gateway.commands.output import ReportFormat, print_json, print_table
from gateway.commands.records import REPORT_TIMEOUT_S, DatabaseUrl, Home, now_ms, open_database
from gateway.core.money import format_nano
from gateway.core.zones import load_zone, local_time, parse_interval
from gateway.finance.reports import GROUPS, UsageQuery, UsageReport, parse_groups, usage_report
from gateway.stores.sql import SqlJournal

_ONLY_IF_ANY = ("images", "audio_ms", "estimated", "unpriced_requests", "unpriced_tokens")

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
    group_by: Annotated[str, typer.Option(help=f"Any of {','.join(GROUPS)}, with commas between.")] = "",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's requests.")] = None,
    lines: Annotated[
        bool, typer.Option("--lines", help="The lines that amounts are sums of, instead of rows.")
    ] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: ReportFormat = "table",
) -> None:
    """
    Count requests, tokens and amounts of the requests that arrived from --from until before --to.

    Dates begin at midnight in --zone. `denied` were refused before any engine saw them. `exact`, `delivered` and
    `interrupted` tell by which rule tokens were counted: the engine's final usage, what had been delivered when the
    stream was cut, or what was noted last before a gateway died. `unpriced` were served with no price in force.

    An amount is the sum of lines: one for each price version, prompt-length tier, batch factor and unit, rounded once.
    --lines shows them. CSV has no line of totals; JSON has rows, lines, totals, and amounts by currency.

    Example: sluice report usage --from 2026-11-01 --to 2026-12-01 --zone Asia/Shanghai --group-by tenant,day
    """
    with open_database(home, database_url, REPORT_TIMEOUT_S) as (settings, database):
        named = load_zone(zone or settings.zone)
        from_ms, to_ms = parse_interval(start, end, named, now_ms())
        groups = parse_groups(group_by)
        query = UsageQuery(from_ms=from_ms, to_ms=to_ms, zone=named, group_by=groups, tenant=tenant)
        report = usage_report(SqlJournal(database), query)
    if output == "json":
        print_json(report.to_json())
    elif output == "csv":
        typer.echo(report.to_csv(lines=lines), nl=False)
    else:
        _print_table(report, lines=lines)


def _print_table(report: UsageReport, *, lines: bool) -> None:
    query = report.query
    begins, ends = (local_time(at, query.zone).isoformat(sep=" ") for at in (query.from_ms, query.to_ms))
    typer.echo(f"Usage from {begins} until before {ends}, {query.zone.key}")
    if lines:
        print_table([name for name in report.line_columns if name != "amount_nano"], report.line_records())
    else:
        totals = asdict(report.totals)
        unseen = {"amount_nano", *(name for name in _ONLY_IF_ANY if not totals[name])}
        named = {query.group_by[0]: "total", **totals} if query.group_by else None
        print_table([name for name in report.columns if name not in unseen], report.records(), named)
    for currency, nano in report.amounts_nano.items():
        typer.echo(f"Amount: {format_nano(nano)} {currency}")
