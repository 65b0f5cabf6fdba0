"""`sluice limits`: how much of what may be asked for per minute, or be under way at once."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import httpx
import typer

from gateway.commands.local.gateway_client import find_gateway
from gateway.commands.output import Format, print_record, print_records
from gateway.commands.records import DatabaseUrl, Home, now_ms, open_database
from gateway.control.limit_use import join_use
from gateway.control.limits import LimitState, list_limits, remove_limit, set_limit, to_json
from gateway.control.subjects import Who
from gateway.core.limits import Metric
from gateway.errors import InvalidInput
from gateway.settings import Settings
from gateway.stores.sql_directory import SqlDirectory

COLUMNS = ("id", "scope", "subject", "model", "metric", "amount", "is_live", "flaw")
USE_COLUMNS = (*COLUMNS[:-2], "used", "left", *COLUMNS[-2:])
TIMEOUT_S = 5.0

app = typer.Typer(help="Limits. Gateways follow every change within a second.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="The tenant's id: all its keys together.")]
Project = Annotated[str, typer.Option(help="A project of the tenant: its keys together.")]
Key = Annotated[str, typer.Option(help="A key's id; without a tenant.")]
Model = Annotated[str, typer.Option(help="Only requests for this model; without tenant and key, everybody's.")]
_PerMinute = Annotated[int | None, typer.Option(help="Per minute.")]


@app.command("set")
def set_(
    tenant: Tenant = "",
    project: Project = "",
    key: Key = "",
    model: Model = "",
    requests: _PerMinute = None,
    tokens: Annotated[int | None, typer.Option(help="Of prompts and answers, per minute.")] = None,
    input_tokens: Annotated[int | None, typer.Option(help="Of prompts, per minute.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Of answers, per minute.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Requests under way at once.")] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Declare limits, or change their amounts. They hold over all gateways; a refused request costs nothing.

    Example: sluice limits set --tenant acme --requests 600 --tokens 200000 --concurrent 50
    """
    wanted = {
        Metric.REQUESTS.value: requests,
        Metric.TOKENS.value: tokens,
        Metric.INPUT_TOKENS.value: input_tokens,
        Metric.OUTPUT_TOKENS.value: output_tokens,
        Metric.CONCURRENT.value: concurrent,
    }
    given = {metric: amount for metric, amount in wanted.items() if amount is not None}
    if not given:
        raise InvalidInput("There is nothing to limit. Give --requests, --tokens, --concurrent or another amount.")
    who = Who(tenant=tenant, project=project, key=key, model=model)
    with open_database(home, database_url) as (_, database):
        store = SqlDirectory(database)
        made = [set_limit(store, who, metric, amount, now_ms=now_ms()) for metric, amount in given.items()]
        print_records(COLUMNS, [to_json(LimitState(limit, "")) for limit in made], output)


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    url: Annotated[str, typer.Option(help="The gateway to ask what is used. Default: that of --home.")] = "",
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    List limits: whether each is live, and what is used and left of it at this moment, over all gateways.

    One whose tenant is suspended or whose model is retired binds nobody. The limits are the database's; what is used
    only gateways know, so without one that answers it is not shown.
    """
    with open_database(home, database_url) as (settings, database):
        states = list_limits(SqlDirectory(database), tenant, now_ms())
    told, why = _ask_use(settings, url, tenant) if states else ([], "")
    records = join_use(states, told, why)
    print_records(USE_COLUMNS, records, output)
    if output == "table":
        _print_doubts(records)


@app.command()
def remove(
    limit: Annotated[str, typer.Argument(help="The limit's id, from `sluice limits list`.", metavar="LIMIT")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Remove a limit.

    Example: sluice limits remove lim_0123456789abcdef
    """
    with open_database(home, database_url) as (_, database):
        removed = remove_limit(SqlDirectory(database), limit)
        print_record(COLUMNS, to_json(LimitState(removed, "removed")), output)


def _ask_use(settings: Settings, url: str, tenant: str | None) -> tuple[list[dict[str, Any]], str]:
    """Give what a gateway tells of limits, and why it might not tell of one."""
    found, token = find_gateway(settings)
    found = url.rstrip("/") or found
    bearer, wanted = {"authorization": f"Bearer {token}"}, {"tenant": tenant} if tenant else {}
    try:
        answer = httpx.get(
            f"{found}/admin/v1/limits", headers=bearer, params=wanted, timeout=TIMEOUT_S, trust_env=False
        )
        if not answer.is_success:
            return [], f"the gateway at {found} answers {answer.status_code}"
        return list(answer.json()["data"]), f"the gateway at {found} does not tell of it"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        return [], f"the gateway at {found} does not answer: {error or type(error).__name__}"


def _print_doubts(records: Sequence[Mapping[str, Any]]) -> None:
    for why in dict.fromkeys(each["why_unknown"] for each in records if each["why_unknown"]):
        typer.echo(f"What is used is not known where there is a dash: {why}.")
    if any(each["is_shared"] is False for each in records):
        typer.echo("Redis is away: what is used is what this one gateway knows.")
