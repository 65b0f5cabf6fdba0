"""`sluice up`: everything on this machine, from nothing to a metered answer, in one command."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from gateway.commands.local.declare import declare
from gateway.commands.local.home import Credentials, Place, held, load_or_make_credentials, make_home, save_credentials
from gateway.commands.local.installation import Installation
from gateway.commands.local.listening import choose_port
from gateway.commands.local.preflight import TINY, Plan, is_folder, preflight
from gateway.commands.local.programs import Served
from gateway.commands.local.redis_server import redis_executable
from gateway.commands.local.scaling import parse_range
from gateway.commands.local.steps import Steps
from gateway.commands.local.welcome import welcome
from gateway.commands.models.files import hub_folder
from gateway.commands.worker_pool import declared_pool, is_given, pool_file
from gateway.control.pool_file import PoolFile
from gateway.core.pools import PoolSpec
from gateway.errors import InvalidInput, StartFailed
from gateway.settings import Settings, load_settings
from workers.hub.tiny import is_complete


def up(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="`tiny` (made on the spot), a model folder, or a ModelScope id: Qwen/Qwen3-0.6B.")
    ] = TINY,
    pool: Annotated[
        str | None,
        typer.Option(help="A pool of sluice.yaml: what is not given here comes from there, and the file is applied."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Engines to run; about 3 GB of memory each on CPU.")] = 1,
    scale: Annotated[
        str | None, typer.Option(help="LEAST..MOST, as 0..4, instead of --workers: as many run as there is work for.")
    ] = None,
    engine: Annotated[Literal["vllm", "sim"], typer.Option(help="`sim` is simulated: to try things out.")] = "vllm",
    port: Annotated[int | None, typer.Option(help="Port of the gateway; 0 takes a free one. Default: 8080.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    home: Annotated[Path | None, typer.Option(help="Where everything is kept. Default: .sluice.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Requests that an engine works on at once.")] = None,
    engine_arg: Annotated[list[str] | None, typer.Option(help="Passed on to vLLM, e.g. --max-model-len=4096.")] = None,
) -> None:
    """
    Run everything on this machine: Redis, database, workers with their engines, and the gateway.

    Ends with a key and a curl line that work as printed. Ctrl-C stops everything and loses nothing.

    With --pool NAME, the model, its names, --engine-arg and --workers (the pool's least) come from sluice.yaml.

    With --scale, workers are started and drained as requests come and go; with 0 at least the first one of a quiet time
    waits for a start, and is told how long.

    Example: sluice up --model Qwen/Qwen3-0.6B --workers 2
    Example: sluice up --scale 0..4
    """
    asked = parse_range(scale) if scale else None
    if asked and is_given(context, "workers"):
        raise InvalidInput("--scale and --workers were given; --scale says how many workers there may be, so drop one.")
    chosen = _choose(pool)
    if chosen.pool:
        model = model if is_given(context, "model") else chosen.pool.model
        workers = workers if is_given(context, "workers") else max(1, chosen.pool.workers_min)
        engine_arg = engine_arg or list(chosen.pool.engine_args)
    workers = asked.most if asked else workers
    settings = load_settings(home=home, host=host, port=port)
    if settings.port == 0:
        settings = settings.model_copy(update={"port": choose_port(None)})
    plan = Plan(home=settings.home, host=settings.host, port=settings.port, model=model, workers=workers, engine=engine)
    console = Console()
    make_home(settings.home)
    with held(settings.home):
        installation = _prepare(settings, plan, chosen, console, max_num_seqs, tuple(engine_arg or ()))
        installation = replace(installation, scale=asked)
        asyncio.run(installation.run())
    console.print(f"  Stopped. Everything is kept in {settings.home}: the next start finds it.", highlight=False)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A pool that sluice.yaml declares and that is to run here, with its file; neither if none was asked for."""

    pool: PoolSpec | None = None
    file: PoolFile | None = None

    @property
    def revision(self) -> str | None:
        return (self.pool.revision or None) if self.pool else None


def _choose(name: str | None) -> _Chosen:
    """Find the pool that was asked for. Raises InvalidInput if sluice.yaml does not declare it, or not rightly."""
    if name is None:
        return _Chosen()
    file = pool_file()
    return _Chosen(declared_pool(file, name), file)


def _prepare(
    settings: Settings,
    plan: Plan,
    chosen: _Chosen,
    console: Console,
    max_num_seqs: int | None,
    engine_args: tuple[str, ...],
) -> Installation:
    """Do what comes before the first child: checks, model, secrets, database."""
    steps = Steps(console)
    with steps.step("checks: port, model, packages, memory, disk"):
        preflight(plan)
        if not settings.redis_url:
            redis_executable()
    if plan.engine == "vllm" and plan.model != TINY and not is_folder(plan.model):
        hub_folder(settings, plan.model, chosen.revision)  # with bars of its own; the step below finds it on this disk
    with steps.step(f"model {plan.model}"):
        served = _served(_model(settings, plan, chosen, max_num_seqs, engine_args), chosen.pool)
    with steps.step("database"):
        credentials = _credentials(settings, served.name, chosen.file)

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


def _model(
    settings: Settings, plan: Plan, chosen: _Chosen, max_num_seqs: int | None, engine_args: tuple[str, ...]
) -> Served:
    """Have the model's files on this disk, and give it the name that clients ask for."""
    if plan.engine != "vllm":
        return Served(
            source=plan.model, name=plan.model, engine=plan.engine, max_num_seqs=max_num_seqs, engine_args=engine_args
        )
    tiny = (plan.home / "models" / TINY).absolute()  # where `sluice worker` looks too
    folder = _tiny(tiny) if plan.model == TINY else hub_folder(settings, plan.model, chosen.revision)
    name = folder.resolve().name if is_folder(plan.model) else plan.model
    return Served(source=str(folder.absolute()), name=name, max_num_seqs=max_num_seqs, engine_args=engine_args)


def _served(served: Served, pool: PoolSpec | None) -> Served:
    """Call the model as its pool does."""
    return replace(served, name=pool.serves[0], pool=pool) if pool else served


def _tiny(folder: Path) -> Path:
    """Make the tiny model, in a process of its own: the libraries it takes are of no use to this one afterwards."""
    if not is_complete(folder):
        made = subprocess.run(  # noqa: S603  our own module
            [sys.executable, "-m", "workers.hub.tiny", str(folder)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise StartFailed(f"The tiny model could not be made: {made.stderr.strip()[-300:]}")
    return folder


def _credentials(settings: Settings, model: str, file: PoolFile | None) -> Credentials:
    """Give the secrets of this home, the key declared in the database; tokens that are set go before those made."""
    kept = load_or_make_credentials(settings.home)
    key = declare(settings, kept.api_key, model, file)
    if key != kept.api_key:
        kept = replace(kept, api_key=key)
        save_credentials(settings.home, kept)
    given = {"admin_token": settings.admin_token, "worker_token": settings.worker_token}
    return replace(kept, **{name: token.get_secret_value() for name, token in given.items() if token})
