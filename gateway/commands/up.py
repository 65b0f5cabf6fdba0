"""`sluice up`: everything on this machine, from nothing to a metered answer, in one command."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gateway.commands.local.declare import declare
from gateway.commands.local.home import Credentials, Place, held, load_or_make_credentials, make_home, save_credentials
from gateway.commands.local.installation import Installation
from gateway.commands.local.listening import choose_port
from gateway.commands.local.preflight import TINY, Plan, is_folder, preflight
from gateway.commands.local.programs import Served
from gateway.commands.local.redis_server import redis_executable
from gateway.commands.local.steps import Steps
from gateway.commands.local.welcome import welcome
from gateway.commands.models.files import hub_folder
from gateway.errors import StartFailed
from gateway.settings import Settings, load_settings
from workers.hub.tiny import is_complete


def up(
    model: Annotated[
        str, typer.Option(help="`tiny` (made on the spot), a model folder, or a ModelScope id: Qwen/Qwen3-0.6B.")
    ] = TINY,
    workers: Annotated[int, typer.Option(min=1, help="Engines to run; about 3 GB of memory each on CPU.")] = 1,
    port: Annotated[int | None, typer.Option(help="Port of the gateway; 0 takes a free one. Default: 8080.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    home: Annotated[Path | None, typer.Option(help="Where everything is kept. Default: .sluice.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Requests that an engine works on at once.")] = None,
    engine_arg: Annotated[list[str] | None, typer.Option(help="Passed on to vLLM, e.g. --max-model-len=4096.")] = None,
) -> None:
    """
    Run everything on this machine: Redis, database, workers with their engines, and the gateway.

    Ends with a key and a curl line that work as printed. Ctrl-C stops everything and loses nothing.

    Example: sluice up --model Qwen/Qwen3-0.6B --workers 2
    """
    settings = load_settings(home=home, host=host, port=port)
    if settings.port == 0:
        settings = settings.model_copy(update={"port": choose_port(None)})
    plan = Plan(home=settings.home, host=settings.host, port=settings.port, model=model, workers=workers)
    console = Console()
    make_home(settings.home)
    with held(settings.home):
        installation = _prepare(settings, plan, console, max_num_seqs, tuple(engine_arg or ()))
        asyncio.run(installation.run())
    console.print(f"  Stopped. Everything is kept in {settings.home}: the next start finds it.", highlight=False)


def _prepare(
    settings: Settings, plan: Plan, console: Console, max_num_seqs: int | None, engine_args: tuple[str, ...]
) -> Installation:
    """Do what comes before the first child: checks, model, secrets, database."""
    steps = Steps(console)
    with steps.step("checks: port, model, packages, memory, disk"):
        preflight(plan)
        if not settings.redis_url:
            redis_executable()
    if plan.model != TINY and not is_folder(plan.model):
        hub_folder(settings, plan.model)  # with bars of its own; the step below finds it on this disk
    with steps.step(f"model {plan.model}"):
        served = _model(settings, plan, max_num_seqs, engine_args)
    with steps.step("database"):
        credentials = _credentials(settings, served.name)

    def on_ready(place: Place) -> None:
        print(welcome(place, credentials.api_key, str(settings.home)), flush=True)  # noqa: T201  as it is, never wrapped

    return Installation(
        settings=settings,
        credentials=credentials,
        served=served,
        workers=plan.workers,
        steps=steps,
        on_ready=on_ready,
    )


def _model(settings: Settings, plan: Plan, max_num_seqs: int | None, engine_args: tuple[str, ...]) -> Served:
    """Have the model's files on this disk, and give it the name that clients ask for."""
    tiny = (plan.home / "models" / TINY).absolute()  # where `sluice worker` looks too
    folder = _tiny(tiny) if plan.model == TINY else hub_folder(settings, plan.model)
    name = folder.resolve().name if is_folder(plan.model) else plan.model
    return Served(source=str(folder.absolute()), name=name, max_num_seqs=max_num_seqs, engine_args=engine_args)


def _tiny(folder: Path) -> Path:
    """Make the tiny model, in a process of its own: the libraries it takes are of no use to this one afterwards."""
    if not is_complete(folder):
        made = subprocess.run(  # noqa: S603  our own module
            [sys.executable, "-m", "workers.hub.tiny", str(folder)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise StartFailed(f"The tiny model could not be made: {made.stderr.strip()[-300:]}")
    return folder


def _credentials(settings: Settings, model: str) -> Credentials:
    """Give the secrets of this home, the key declared in the database; tokens that are set go before those made."""
    kept = load_or_make_credentials(settings.home)
    key = declare(settings, kept.api_key, model)
    if key != kept.api_key:
        kept = replace(kept, api_key=key)
        save_credentials(settings.home, kept)
    given = {"admin_token": settings.admin_token, "worker_token": settings.worker_token}
    return replace(kept, **{name: token.get_secret_value() for name, token in given.items() if token})
