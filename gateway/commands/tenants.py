"""`sluice tenants`: who pays."""

from dataclasses import asdict
from typing import Annotated

import typer

from gateway.commands.output import Format, print_record, print_records
from gateway.commands.records import DatabaseUrl, Home, open_database
from gateway.control.tenants import create_tenant, resume_tenant, set_tenant, suspend_tenant
from gateway.core.directory import WEIGHT_MAX, ServiceClass, Tenant
from gateway.core.webhooks import tenant_secret
from gateway.errors import InvalidInput, NotFoundError
from gateway.stores.sql_directory import SqlDirectory

COLUMNS = ("id", "name", "service_class", "weight", "is_suspended")
_CLASS_HELP = "The most urgent class its requests may have: interactive, standard or batch."
_WEIGHT_HELP = f"Its share of the tokens while others of its class wait too, 1 to {WEIGHT_MAX}."

app = typer.Typer(help="Tenants: who pays. Gateways follow every change within a second.", no_args_is_help=True)

_TenantId = Annotated[str, typer.Argument(help="The tenant's id, such as acme.", metavar="TENANT")]


@app.command("list")
def list_tenants(home: Home = None, database_url: DatabaseUrl = None, output: Format = "table") -> None:
    """List all tenants."""
    with open_database(home, database_url) as (_, database):
        print_records(COLUMNS, [asdict(tenant) for tenant in SqlDirectory(database).tenants()], output)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What people call it, such as 'Acme GmbH'.")],
    tenant_id: Annotated[str | None, typer.Option("--id", help="Its id; made from the name unless given.")] = None,
    service_class: Annotated[
        str, typer.Option("--class", "--service-class", help=_CLASS_HELP)
    ] = ServiceClass.STANDARD.label,
    weight: Annotated[int, typer.Option(help=_WEIGHT_HELP)] = 1,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Create a tenant.

    Example: sluice tenants create 'Acme GmbH' --class interactive --weight 3
    """
    with open_database(home, database_url) as (_, database):
        _show(create_tenant(SqlDirectory(database), name, service_class, tenant_id, weight), output)


@app.command("set")
def change(
    tenant: _TenantId,
    name: Annotated[str | None, typer.Option(help="What people call it. Its id stays.")] = None,
    service_class: Annotated[str | None, typer.Option("--class", "--service-class", help=_CLASS_HELP)] = None,
    weight: Annotated[int | None, typer.Option(help=_WEIGHT_HELP)] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Change a tenant's name, class or weight; what is not given stays.

    Example: sluice tenants set acme --class interactive --weight 3
    """
    if (name, service_class, weight) == (None, None, None):
        raise InvalidInput(f"There is nothing to change of tenant {tenant!r}. Give --name, --class or --weight.")
    with open_database(home, database_url) as (_, database):
        store = SqlDirectory(database)
        _show(set_tenant(store, tenant, name=name, service_class=service_class, weight=weight), output)


@app.command()
def suspend(tenant: _TenantId, home: Home = None, database_url: DatabaseUrl = None, output: Format = "table") -> None:
    """Refuse a tenant's keys until it is resumed."""
    with open_database(home, database_url) as (_, database):
        _show(suspend_tenant(SqlDirectory(database), tenant), output)


@app.command()
def resume(tenant: _TenantId, home: Home = None, database_url: DatabaseUrl = None, output: Format = "table") -> None:
    """Accept a suspended tenant's keys again."""
    with open_database(home, database_url) as (_, database):
        _show(resume_tenant(SqlDirectory(database), tenant), output)


@app.command("webhook-secret")
def webhook_secret(
    tenant: _TenantId, home: Home = None, database_url: DatabaseUrl = None, output: Format = "table"
) -> None:
    """
    Show what a tenant verifies its webhooks with. It follows from the tenant's id and SLUICE_JOBS__WEBHOOK_SECRET.

    Example: sluice tenants webhook-secret acme
    """
    with open_database(home, database_url) as (settings, database):
        if SqlDirectory(database).tenant(tenant) is None:
            raise NotFoundError(f"There is no tenant {tenant!r}. See `sluice tenants list`.")
    master = settings.jobs.webhook_secret
    if master is None:
        message = (
            "No webhook is sent here: set SLUICE_JOBS__WEBHOOK_SECRET, to the same long random text for all gateways."
        )
        raise InvalidInput(message)
    record = {"tenant": tenant, "webhook_secret": tenant_secret(master.get_secret_value(), tenant)}
    print_record(("tenant", "webhook_secret"), record, output)


def _show(tenant: Tenant, output: str) -> None:
    print_record(COLUMNS, asdict(tenant), output)
