"""`sluice budgets`: money or tokens per period, and what was paid in advance."""

from dataclasses import asdict
from typing import Annotated

import typer

from gateway.commands.limits import Key, Project, Tenant
from gateway.commands.output import Format, print_json, print_record, print_records, print_table
from gateway.commands.records import REPORT_TIMEOUT_S, DatabaseUrl, Home, now_ms, open_database
from gateway.control.budgets import BudgetState, Terms, list_budgets, remove_budget, set_budget, to_json
from gateway.control.subjects import Who
from gateway.control.webhook_address import AddressRules
from gateway.core.budgets import BudgetKind
from gateway.core.money import CURRENCY
from gateway.errors import InvalidInput
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory

COLUMNS = (
    "id", "subject", "model", "kind", "period", "currency", "amount", "spent", "left", "is_hard", "is_live", "flaw"
)  # fmt: skip
DIFFERENCES = ("budget", "period_ms", "what", "found", "expected")

app = typer.Typer(help="Budgets. Gateways follow every change within a second.", no_args_is_help=True)


@app.command("set")
def set_(
    tenant: Tenant = "",
    project: Project = "",
    key: Key = "",
    model: Annotated[str, typer.Option(help="Only requests for this model.")] = "",
    money: Annotated[str | None, typer.Option(help="Money per period, such as 500 or 0.25.")] = None,
    tokens: Annotated[str | None, typer.Option(help="A quota: tokens per period.")] = None,
    prepaid: Annotated[bool, typer.Option("--prepaid", help="What the tenant paid in; see `sluice balance`.")] = False,
    period: Annotated[str, typer.Option(help="day, month or total, at midnights of the settings' zone.")] = "month",
    currency: Annotated[str, typer.Option(help="That of the prices it meets.")] = CURRENCY,
    hard: Annotated[
        bool, typer.Option("--hard/--soft", help="Never overshoot, or by a slice of a stream at most.")
    ] = False,
    alerts: Annotated[str, typer.Option(help="Percentages at which to tell, such as 50,80,100.")] = "",
    webhook: Annotated[str, typer.Option(help="A URL that is told, signed with the tenant's webhook secret.")] = "",
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Declare a budget, or change its terms. It starts with what the present period has spent already.

    Examples: sluice budgets set --tenant acme --money 500 --period month --hard --alerts 80,100

    sluice budgets set --tenant acme --project web --tokens 10000000 --period day
    """
    kind, amount = _kind(money, tokens, prepaid=prepaid)
    terms = Terms(
        kind=kind, amount=amount, period=period, currency=currency, is_hard=hard, alerts=alerts, webhook=webhook
    )
    who = Who(tenant=tenant, project=project, key=key, model=model)
    with open_database(home, database_url, REPORT_TIMEOUT_S) as (settings, database):
        store, ledger, now = SqlDirectory(database), SqlBudgets(database), now_ms()
        rules = AddressRules(*settings.jobs.address_rules)
        made = set_budget(store, who, terms, rules, zone=settings.zone, now_ms=now, ledger=ledger)
        states = list_budgets(store, ledger, made.tenant, now)
        print_record(COLUMNS, to_json(next(each for each in states if each.budget.id == made.id)), output)


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    List budgets: what each has spent in the present period, according to the Journal, and whether it is live.

    One is not live that names nobody who may spend, or whose prices are missing or in another currency.
    """
    with open_database(home, database_url) as (_, database):
        states = list_budgets(SqlDirectory(database), SqlBudgets(database), tenant, now_ms())
        print_records(COLUMNS, list(map(to_json, states)), output)


@app.command()
def remove(
    budget: Annotated[str, typer.Argument(help="The budget's id, from `sluice budgets list`.", metavar="BUDGET")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Remove a budget. A prepaid balance stays, and is charged no more.

    Example: sluice budgets remove bud_0123456789abcdef
    """
    with open_database(home, database_url) as (_, database):
        removed = remove_budget(SqlDirectory(database), budget)
        print_record(COLUMNS, to_json(BudgetState(removed, 0, None, "removed")), output)


@app.command()
def rebuild(
    fix: Annotated[bool, typer.Option("--fix", help="Write what differs. Shipping waits meanwhile.")] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Count all budgets anew from the Journal's events and compare. Exit status 1 if anything differed.

    Counters are overwritten with --fix, postings of balances corrected by further transfers.

    Example: sluice budgets rebuild --fix
    """
    with open_database(home, database_url, REPORT_TIMEOUT_S) as (_, database):
        ledger = SqlBudgets(database)
        found = [asdict(each) for each in (ledger.rebuild() if fix else ledger.prove())]
    if output == "json":
        print_json({"differences": found, "is_fixed": fix})
    elif found:
        print_table(DIFFERENCES, found)
        typer.echo("These are corrected." if fix else "Correct them with `sluice budgets rebuild --fix`.")
    else:
        typer.echo("Every counter and every balance equals what the events say.")
    if found:
        raise typer.Exit(1)


def _kind(money: str | None, tokens: str | None, *, prepaid: bool) -> tuple[str, str]:
    given = [(BudgetKind.MONEY.value, money), (BudgetKind.TOKENS.value, tokens)]
    found = [(kind, amount) for kind, amount in given if amount is not None]
    if prepaid:
        found.append((BudgetKind.PREPAID.value, ""))
    if len(found) != 1:
        raise InvalidInput(f"A budget is of one kind, not of {len(found)}. Give --money, --tokens or --prepaid.")
    return found[0]
