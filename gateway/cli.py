"""The `sluice` command: finds the verbs of gateway/commands/ and turns errors into one clear sentence."""

import importlib
import sys
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from gateway.errors import SluiceError

# In the order of --help. Each is imported when it is used: all together take seconds, one a few tenths.
VERBS = {
    "up": "gateway.commands.up:up",
    "status": "gateway.commands.status:status",
    "serve": "gateway.commands.serve:serve",
    "worker": "gateway.commands.worker_control:app",
    "check": "gateway.commands.check:check",
    "apply": "gateway.commands.apply:apply",
    "migrate": "gateway.commands.migrate:migrate",
    "tenants": "gateway.commands.tenants:app",
    "keys": "gateway.commands.keys:app",
    "models": "gateway.commands.models.group:app",
    "prices": "gateway.commands.prices:app",
    "limits": "gateway.commands.limits:app",
    "budgets": "gateway.commands.budgets:app",
    "balance": "gateway.commands.balance:app",
    "report": "gateway.commands.report:app",
    "reconcile": "gateway.commands.reconcile:reconcile",
    "spool": "gateway.commands.spool:app",
    "scale": "gateway.commands.scale:app",
    "plan": "gateway.commands.plan:plan",
    "drill": "gateway.commands.drill.burst:app",
}


class _Verbs(typer.core.TyperGroup):
    """The group of all verbs, loaded one by one."""

    # The types are click's, of which typer carries its own copy.

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        verb = getattr(importlib.import_module(module), name)
        if not isinstance(verb, typer.Typer):
            function, verb = verb, typer.Typer(add_completion=False)
            verb.command(cmd_name)(function)
        command = typer.main.get_command(verb)
        command.name = cmd_name
        return command


app = typer.Typer(cls=_Verbs, no_args_is_help=True, pretty_exceptions_show_locals=False)


@app.callback()
def sluice() -> None:
    """A self-hosted, OpenAI-compatible gateway in front of vLLM worker pools."""


def main() -> None:
    """Run the command; an error of ours is one sentence on stderr and exit status 1."""
    try:
        app(prog_name="sluice")
    except SluiceError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
