"""`sluice tenants`: who pays."""

from dataclasses import asdict
from typing import Annotated

import typer

from gateway.commands.output import Format, print_record, print_records
from gateway.commands.records import DatabaseUrl, Home, open_database
from gateway.control.tenants import create_tenant, resume_tenant, suspend_tenant
from gateway.core.directory import ServiceClass, Tenant
from gateway.stores.sql import SqlDirectory

COLUMNS = ("id", "name", "service_class", "is_suspended")

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
        str, typer.Option(help="The most urgent class its requests may have: interactive, standard or batch.")
    ] = ServiceClass.STANDARD.label,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Create a tenant.

    Example: sluice tenants create 'Acme GmbH' --service-class interactive
    """
    with open_database(home, database_url) as (_, database):
        _show(create_tenant(SqlDirectory(database), name, service_class, tenant_id), output)


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


def _show(tenant: Tenant, output: str) -> None:
    print_record(COLUMNS, asdict(tenant), output)
