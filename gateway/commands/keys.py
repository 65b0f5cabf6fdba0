"""`sluice keys`: API keys of tenants."""

import time
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from gateway.commands.output import Format, print_json, print_record, print_records
from gateway.commands.records import DatabaseUrl, Home, now_ms, open_database
from gateway.control.keys import PROJECT, create_key, revoke_key, to_json
from gateway.control.tenants import create_tenant
from gateway.core.directory import Key, ServiceClass
from gateway.core.zones import load_zone, local_time, parse_instant
from gateway.stores.sql_directory import SqlDirectory

COLUMNS = ("id", "tenant", "project", "name", "hint", "service_class", "created", "expires", "is_revoked")

STANDARD = ServiceClass.STANDARD.label
POLLS = 2  # of its gateways until they know a key: one may be under way, and not see it any more

app = typer.Typer(help="API keys. Gateways follow every change within a second.", no_args_is_help=True)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only the keys of this tenant.")] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """List keys, newest first; the revoked ones too."""
    with open_database(home, database_url) as (settings, database):
        zone = load_zone(settings.zone)
        keys = SqlDirectory(database).keys(tenant)
        print_records(COLUMNS, [to_json(key) if output == "json" else _row(key, zone) for key in keys], output)


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="The id of the tenant that pays; made, and said, if there is none.")],
    project: Annotated[str, typer.Option(help="A part of the tenant, for its own accounts.")] = PROJECT,
    name: Annotated[str, typer.Option(help="A note to tell keys apart.")] = "",
    expires: Annotated[
        str | None, typer.Option(help="When it stops working: 2027-01-31, or with a time, in the zone of the settings.")
    ] = None,
    service_class: Annotated[
        str | None, typer.Option("--class", help="Of its requests: the tenant's, unless a less urgent one is given.")
    ] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Create a key and print it. It is stored hashed: this is the only time that it is shown.

    When this returns the gateways know it, so that a script may use it at once.

    Example: sluice keys create --tenant acme --name 'chat bot' --format json
    """
    with open_database(home, database_url) as (settings, database):
        zone = load_zone(settings.zone)
        expires_ms = parse_instant(expires, zone, "expires") if expires else None
        store = SqlDirectory(database)
        if store.tenant(tenant) is None:
            create_tenant(store, tenant, tenant_id=tenant)
            typer.echo(f"There was no tenant {tenant!r}: it was made, of class {STANDARD}.", err=True)
        key, secret = create_key(
            store,
            tenant,
            now_ms=now_ms(),
            project=project,
            name=name,
            expires_ms=expires_ms,
            service_class=service_class,
        )
        if output == "json":
            print_json({"key": secret, **to_json(key)})
        else:
            typer.echo(f"{secret}\n\nThis is the only time that the key is shown.")
            print_record(COLUMNS, _row(key, zone), output)
        time.sleep(POLLS * settings.directory_poll_s)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, which starts with key_.", metavar="KEY")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """Refuse a key for good; within a second on all gateways."""
    with open_database(home, database_url) as (settings, database):
        revoked = revoke_key(SqlDirectory(database), key)
        record = to_json(revoked) if output == "json" else _row(revoked, load_zone(settings.zone))
        print_record(COLUMNS, record, output)


def _row(key: Key, zone: ZoneInfo) -> dict[str, Any]:
    return {
        **to_json(key),
        "hint": f"…{key.hint}",
        "created": _shown(key.created_ms, zone),
        "expires": _shown(key.expires_ms, zone),
    }


def _shown(at_ms: int | None, zone: ZoneInfo) -> str:
    return "" if at_ms is None else local_time(at_ms, zone).strftime("%Y-%m-%d %H:%M")
