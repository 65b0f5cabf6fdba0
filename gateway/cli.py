"""The `sluice` command: assembles the verbs of gateway/commands/ and turns errors into one clear sentence."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from gateway.errors import SluiceError

app = typer.Typer(
    name="sluice",
    help="A self-hosted, OpenAI-compatible gateway in front of vLLM worker pools.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def main() -> None:
    """Run the command; an error of ours is one sentence on stderr and exit status 1."""
    try:
        app()
    except SluiceError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
