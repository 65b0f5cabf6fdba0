"""`sluice prices`: the price book, its changes and its history."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import typer

from gateway.commands.output import Format, print_json, print_table
from gateway.commands.records import REPORT_TIMEOUT_S, DatabaseUrl, Home, now_ms, open_database
from gateway.control.price_entries import PRICES
from gateway.control.price_files import form_of, read_prices, write_prices
from gateway.control.price_preview import preview, preview_moment
from gateway.control.price_views import (
    State,
    plan_to_json,
    plan_to_rows,
    preview_to_json,
    select_prices,
    state_of,
    to_json,
    to_rows,
)
from gateway.control.prices import LEAD_MS, Permits, PricePlan, carry_out, plan_import, plan_withdrawal
from gateway.core.prices import PriceVersion
from gateway.core.zones import load_zone, parse_instant, parse_interval
from gateway.errors import InvalidInput
from gateway.stores.database import Database
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_prompt_usage import SqlPromptUsage

_SHARED = ("model", "pool", "tenant", "from", "to", "currency", "batch_factor", "from_tokens", *PRICES)
COLUMNS = ("id", "state", *_SHARED)
PLAN_COLUMNS = ("change", *_SHARED, "id")
PREVIEW_COLUMNS = (
    "tenant",
    "model",
    "pool",
    "requests",
    "currency_before",
    "before",
    "currency",
    "after",
    "difference",
)

app = typer.Typer(
    help="Prices: versions with dates, per model, pool and tenant. Gateways follow every change within a second.",
    no_args_is_help=True,
)

_File = Annotated[Path, typer.Argument(help="A file of prices, .yaml, .csv or .json; - reads YAML from stdin.")]
_Model = Annotated[str | None, typer.Option(help="Only prices of this model.")]
_Tenant = Annotated[str | None, typer.Option(help="Only prices of this tenant's own.")]
_Zone = Annotated[
    str | None, typer.Option(help="IANA zone of dates, such as Asia/Shanghai. Default: the file's, or the settings'.")
]
_Backdate = Annotated[
    bool, typer.Option("--backdate", help="Let a scope's first prices start in the past. Nothing recorded is re-rated.")
]
_Gaps = Annotated[bool, typer.Option("--allow-gaps", help="Let a scope be without a price between two versions.")]
_Unknown = Annotated[
    bool, typer.Option("--allow-unknown-models", help="Take models and pools that are not declared yet.")
]


@dataclass(frozen=True, slots=True)
class _Desk:
    """What a verb works with: the Directory, the instant, the zone of dates."""

    database: Database
    store: SqlDirectory
    now_ms: int
    zone: ZoneInfo


@app.command("list")
def list_prices(
    model: _Model = None,
    tenant: _Tenant = None,
    at: Annotated[str | None, typer.Option(help="As of this date or date-time. Default: now.")] = None,
    zone: _Zone = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    List the prices that are in force, and those ahead. Per million tokens, image, or second of audio.

    Example: sluice prices list --model Qwen/Qwen3-8B --at 2027-01-01
    """
    with _desk(home, database_url, zone) as desk:
        at_ms = parse_instant(at, desk.zone, "at") if at else desk.now_ms
        shown = {State.IN_FORCE, State.AHEAD}
        found = select_prices(desk.store.prices(), model, tenant)
        _show([each for each in found if state_of(each, at_ms) in shown], at_ms, desk.zone, output)


@app.command()
def history(
    model: _Model = None,
    tenant: _Tenant = None,
    zone: _Zone = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    List all versions that ever were, the past and the withdrawn ones too.

    Example: sluice prices history --model Qwen/Qwen3-8B --tenant acme
    """
    with _desk(home, database_url, zone) as desk:
        _show(select_prices(desk.store.prices(), model, tenant), desk.now_ms, desk.zone, output)


@app.command()
def export(
    form: Annotated[
        Literal["yaml", "csv", "json"], typer.Option("--format", help="For hands, sheets, programs.")
    ] = "yaml",
    model: _Model = None,
    tenant: _Tenant = None,
    zone: _Zone = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
) -> None:
    """
    Print all versions that are not withdrawn, as `sluice prices import` reads them.

    Example: sluice prices export --format csv > prices.csv
    """
    with _desk(home, database_url, zone) as desk:
        typer.echo(write_prices(select_prices(desk.store.prices(), model, tenant), form, desk.zone), nl=False)


@app.command("import")
def take_in(
    file: _File,
    zone: _Zone = None,
    backdate: _Backdate = False,
    allow_gaps: _Gaps = False,
    allow_unknown_models: _Unknown = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Take a file of prices into the book: all of it, or nothing if anything in it is wrong.

    New prices start a minute ahead or later. What is or was in force never changes; a version that is open ends where
    the next one starts; one that is yet to come is replaced by other prices for the same start; what the file does not
    name stays. A currency other than that of the budgets and balances which a price would meet is an error.

    Example: sluice prices import prices.yaml
    """
    with _desk(home, database_url, zone) as desk:
        permits = Permits(backdate=backdate, gaps=allow_gaps, unknown_models=allow_unknown_models)
        plan = _plan(desk, file, permits)
        carry_out(desk.store, plan)
        _show_plan(plan, desk, output, "Done, in one transaction." if plan.writes else "Nothing was to be done.")


@app.command()
def diff(
    file: _File,
    preview_from: Annotated[
        str | None, typer.Option(help="Rate the requests that arrived from here on by both books. Default: this month.")
    ] = None,
    preview_to: Annotated[str | None, typer.Option(help="First moment no longer rated. Default: now.")] = None,
    preview_at: Annotated[
        str | None, typer.Option(help="The moment whose prices are compared. Default: when the last new ones start.")
    ] = None,
    zone: _Zone = None,
    backdate: _Backdate = False,
    allow_gaps: _Gaps = False,
    allow_unknown_models: _Unknown = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Show what `sluice prices import` would do with a file, and do nothing.

    With --preview-from or --preview-to, also what past usage would cost at the prices of one moment, by the book as it
    is and by the book as it would be.

    Example: sluice prices diff prices.yaml --preview-from 2026-11-01 --preview-to 2026-12-01
    """
    with _desk(home, database_url, zone, REPORT_TIMEOUT_S) as desk:
        permits = Permits(backdate=backdate, gaps=allow_gaps, unknown_models=allow_unknown_models)
        plan = _plan(desk, file, permits)
        seen = None
        if preview_from or preview_to or preview_at:
            from_ms, to_ms = parse_interval(preview_from, preview_to, desk.zone, desk.now_ms)
            at_ms = (
                parse_instant(preview_at, desk.zone, "preview-at") if preview_at else preview_moment(plan, desk.now_ms)
            )
            seen = preview_to_json(preview(SqlPromptUsage(desk.database), plan, from_ms, to_ms, at_ms), desk.zone)
        _show_plan(plan, desk, output, "Nothing was written: `sluice prices import` would do this.", seen)


@app.command()
def withdraw(
    price: Annotated[str, typer.Argument(help="The version's id, which starts with price_.", metavar="PRICE")],
    zone: _Zone = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Take a version back before it comes into force; the one before it goes on in its place.

    Example: sluice prices withdraw price_019ac0ffee00d0d2fcb14c3b9a4e71f0
    """
    with _desk(home, database_url, zone) as desk:
        ledger = SqlBudgets(desk.database)
        plan = plan_withdrawal(desk.store, price, now_ms=desk.now_ms, zone=desk.zone, ledger=ledger)
        carry_out(desk.store, plan)
        _show_plan(plan, desk, output, "Done, in one transaction." if plan.writes else "It was withdrawn already.")


@contextmanager
def _desk(
    home: Path | None, database_url: str | None, zone: str | None, timeout_s: float | None = None
) -> Iterator[_Desk]:
    with open_database(home, database_url, timeout_s) as (settings, database):
        yield _Desk(database, SqlDirectory(database), now_ms(), load_zone(zone or settings.zone))


def _plan(desk: _Desk, file: Path, permits: Permits) -> PricePlan:
    name = "stdin" if str(file) == "-" else str(file)
    form = "yaml" if name == "stdin" else form_of(name)
    try:
        content = sys.stdin.buffer.read() if name == "stdin" else file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read: {error.strerror}. Check the path and its permissions.") from error
    entries = read_prices(content, form, name, desk.zone)
    ledger = SqlBudgets(desk.database)
    return plan_import(desk.store, entries, now_ms=desk.now_ms, permits=permits, zone=desk.zone, ledger=ledger)


def _show(versions: Sequence[PriceVersion], at_ms: int, zone: ZoneInfo, output: str) -> None:
    if output == "json":
        print_json([to_json(each, at_ms, zone) for each in versions])
    else:
        print_table(COLUMNS, [row for each in versions for row in to_rows(each, at_ms, zone)])


def _show_plan(plan: PricePlan, desk: _Desk, output: str, end: str, seen: dict[str, Any] | None = None) -> None:
    if output == "json":
        extra = {} if seen is None else {"preview": seen}
        print_json({**plan_to_json(plan, desk.now_ms, desk.zone), **extra})
        return
    print_table(PLAN_COLUMNS, plan_to_rows(plan, desk.now_ms, desk.zone))
    typer.echo(", ".join(f"{count} {change}" for change, count in plan.counts().items() if count) + f". {end}")
    if any(version.from_ms < desk.now_ms + LEAD_MS for version in plan.news):
        typer.echo("What was backdated is in force for requests from now on; what is recorded keeps what it has.")
    if seen is not None:
        _show_preview(seen)


def _show_preview(seen: dict[str, Any]) -> None:
    typer.echo(f"\nPast usage at the prices of {seen['at']}, by the book as it is and as it would be:")
    print_table(PREVIEW_COLUMNS, seen["lines"])
    for total in seen["totals"]:
        typer.echo(f"total {total['currency']}: {total['before']} → {total['after']} ({total['difference']})")
