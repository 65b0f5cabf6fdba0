"""`sluice models`: what clients may ask for, what is on this disk, and what there is."""

from typing import Annotated

import typer

from gateway.commands.models import catalogue, declared, files
from gateway.commands.output import Format, print_records
from gateway.commands.records import DatabaseUrl, Home
from gateway.settings import load_settings

DISK = "On this disk"
CLIENTS = "For clients (gateways follow within a second)"
CHOICE = "To choose from"

app = typer.Typer(
    help="Models: what clients may ask for, what is on this disk, and which open Qwen models there are.",
    no_args_is_help=True,
)


@app.command("list")
def list_models(
    is_on_disk: Annotated[bool, typer.Option("--on-disk", help="List what was pulled or imported instead.")] = False,
    is_catalogue: Annotated[bool, typer.Option("--catalogue", help="List the open Qwen models instead.")] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    List the models that clients may ask for, the retired ones too; or those on this disk, or those there are.

    Example: sluice models list --on-disk
    """
    if is_on_disk:
        print_records((*files.COLUMNS, "problem"), files.on_disk(load_settings(home=home)), output)
    elif is_catalogue:
        print_records(catalogue.COLUMNS, catalogue.catalogue_records(), output)
    else:
        declared.list_declared(home, database_url, output)


app.command("serve", rich_help_panel=CLIENTS)(declared.serve)
app.command("retire", rich_help_panel=CLIENTS)(declared.retire)
app.command("pull", rich_help_panel=DISK)(files.pull)
app.command("verify", rich_help_panel=DISK)(files.verify)
app.command("import", rich_help_panel=DISK)(files.import_model)
app.command("export", rich_help_panel=DISK)(files.export_model)
app.command("remove", rich_help_panel=DISK)(files.remove)
app.command("show", rich_help_panel=CHOICE)(catalogue.show)
app.command("fit", rich_help_panel=CHOICE)(catalogue.fit_models)
