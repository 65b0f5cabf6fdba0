"""`sluice balance`: what tenants paid in advance."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from gateway.commands.output import Format, print_record, print_records
from gateway.commands.records import DatabaseUrl, Home, now_ms, open_database
from gateway.control import balances
from gateway.core.money import CURRENCY
from gateway.core.zones import load_zone, local_time
from gateway.errors import NotFoundError
from gateway.ports.budgets import Transfer, prepaid_account
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory

COLUMNS = ("tenant", "currency", "balance")
HISTORY_COLUMNS = ("at", "change", "currency", "reason", "reference", "debit", "credit", "id")

app = typer.Typer(
    help="Prepaid balances: sums of transfers. Declare one with `sluice budgets set --tenant … --prepaid`.",
    no_args_is_help=True,
)

_Tenant = Annotated[str, typer.Argument(help="The tenant's id, such as acme.", metavar="TENANT")]
_Amount = Annotated[str, typer.Argument(help="Money, such as 500 or 0.25.", metavar="AMOUNT")]
_Currency = Annotated[str, typer.Option(help="That of the balance.")]
_Reference = Annotated[
    str, typer.Option(help="The payment's number: said again, nothing happens. Without one each call is a payment.")
]


@app.command()
def show(tenant: _Tenant, home: Home = None, database_url: DatabaseUrl = None, output: Format = "table") -> None:
    """
    Show what is left of what a tenant paid in. What gateways have not shipped yet is still in it.

    Example: sluice balance show acme
    """
    with _ledger(home, database_url, tenant) as (ledger, _):
        print_records(COLUMNS, balances.balances(ledger, tenant), output)


@app.command()
def topup(
    tenant: _Tenant,
    amount: _Amount,
    reference: _Reference = "",
    currency: _Currency = CURRENCY,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Take in money. Gateways know of it within seconds.

    Example: sluice balance topup acme 500 --reference invoice-2026-117
    """
    with _ledger(home, database_url, tenant) as (ledger, zone):
        made = balances.top_up(ledger, tenant, amount, now_ms=now_ms(), reference=reference, currency=currency)
        print_record(HISTORY_COLUMNS, _row(made, tenant, zone), output)


@app.command()
def refund(
    tenant: _Tenant,
    amount: _Amount,
    reference: _Reference = "",
    currency: _Currency = CURRENCY,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Give money back, at most what is left.

    Example: sluice balance refund acme 20.50 --reference refund-2026-3
    """
    with _ledger(home, database_url, tenant) as (ledger, zone):
        made = balances.refund(ledger, tenant, amount, now_ms=now_ms(), reference=reference, currency=currency)
        print_record(HISTORY_COLUMNS, _row(made, tenant, zone), output)


@app.command()
def history(
    tenant: _Tenant,
    limit: Annotated[int, typer.Option(help="How many transfers, the newest first.")] = 50,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    List the last transfers into and out of a tenant's balance.

    Example: sluice balance history acme --limit 10
    """
    with _ledger(home, database_url, tenant) as (ledger, zone):
        rows = balances.history(ledger, tenant, limit)
        print_records(HISTORY_COLUMNS, [{**row, "at": _at(row["at_ms"], zone)} for row in rows], output)


@contextmanager
def _ledger(home: Home, database_url: DatabaseUrl, tenant: str) -> Iterator[tuple[SqlBudgets, str]]:
    """Open the ledger; raises NotFoundError if there is no such tenant."""
    with open_database(home, database_url) as (settings, database):
        if SqlDirectory(database).tenant(tenant) is None:
            raise NotFoundError(f"There is no tenant {tenant!r}. See `sluice tenants list`.")
        yield SqlBudgets(database), settings.zone


def _row(transfer: Transfer, tenant: str, zone: str) -> dict[str, object]:
    return {**balances.to_json(transfer, prepaid_account(tenant)), "at": _at(transfer.at_ms, zone)}


def _at(at_ms: int, zone: str) -> str:
    return local_time(at_ms, load_zone(zone)).isoformat(sep=" ", timespec="seconds")
