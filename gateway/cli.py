"""The `sluice` command: assembles the verbs of gateway/commands/ and turns errors into one clear sentence."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from gateway.commands import keys, models, report, tenants
from gateway.commands.migrate import migrate
from gateway.commands.reconcile import reconcile
from gateway.commands.serve import serve
from gateway.commands.status import status
from gateway.commands.up import up
from gateway.errors import SluiceError
from workers.commands import worker

app = typer.Typer(
    name="sluice",
    help="A self-hosted, OpenAI-compatible gateway in front of vLLM worker pools.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
for verb in (up, status, serve, worker, migrate, reconcile):
    app.command()(verb)
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
app.add_typer(models.app, name="models")
app.add_typer(report.app, name="report")


def main() -> None:
    """Run the command; an error of ours is one sentence on stderr and exit status 1."""
    try:
        app()
    except SluiceError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
