"""The verb `sluice worker`: options to an agent, signals to its drain."""

import asyncio
import logging
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import structlog
import typer

from workers.agent.agent import Agent
from workers.agent.follower import Follower
from workers.agent.model import Models
from workers.agent.options import Tls, WorkerOptions, default_threads, default_worker_id
from workers.engines.parallel import PORT, Parallel
from workers.errors import WorkerError
from workers.hub.client import Hub


def worker(
    model: Annotated[
        str, typer.Option(help="A folder with a model, a ModelScope id such as Qwen/Qwen3-0.6B, or `tiny`.")
    ] = "tiny",
    served_name: Annotated[
        list[str] | None, typer.Option(help="A name clients ask for; the first one is what answers carry. [repeatable]")
    ] = None,
    pool: Annotated[str, typer.Option(help="The pool this worker joins. Default: the first served name.")] = "",
    gateway: Annotated[
        list[str] | None, typer.Option(help="A gateway to report to; default http://127.0.0.1:8080. [repeatable]")
    ] = None,
    token: Annotated[str, typer.Option(envvar="SLUICE_WORKER_TOKEN", help="What gateways know workers by.")] = "",
    worker_id: Annotated[str, typer.Option(help="Default: the host's name and six random digits.")] = "",
    host: Annotated[str, typer.Option(help="Where the engine listens.")] = "127.0.0.1",
    advertise_host: Annotated[
        str, typer.Option(help="Where gateways reach the engine. Default: --host; this host's name for 0.0.0.0.")
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The engine's port; 0 takes a free one.")] = 0,
    engine: Annotated[Literal["vllm", "sim"], typer.Option(help="The engine; `sim` is simulated.")] = "vllm",
    engine_arg: Annotated[
        list[str] | None, typer.Option(help="Passed to the engine as it is: --engine-arg=--dtype. [repeatable]")
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Requests in the engine's batch.")] = 256,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens in a step. Default: 2048 on CPUs, 8192 on GPUs.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Context in tokens. Default: the model's; at most 8192 on CPUs.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of the engine; 0: all cores but one.")] = 0,
    home: Annotated[Path, typer.Option(help="Where models, logs and records are kept.")] = Path(".sluice"),
    log_file: Annotated[
        Path | None, typer.Option(help="The engine's output. Default: HOME/logs/engine-ID.log.")
    ] = None,
    start_s: Annotated[float, typer.Option(min=1, help="Until /health must answer after the start.")] = 1800.0,
    warm_up_s: Annotated[float, typer.Option(min=1, help="Until the first completion must be there.")] = 300.0,
    drain_s: Annotated[float, typer.Option(min=0, help="On SIGTERM, wait so long for requests to end.")] = 120.0,
    revision: Annotated[str, typer.Option(help="Of a ModelScope model: branch, tag or commit. Default: master.")] = "",
    models_dir: Annotated[
        str, typer.Option(envvar="SLUICE_HUB__DIR", help="Folder of pulled models. Default: HOME/models/hub.")
    ] = "",
    hub_endpoint: Annotated[
        str, typer.Option(envvar="SLUICE_HUB__ENDPOINT", help="Address of the hub. Default: modelscope.cn.")
    ] = "",
    hub_token: Annotated[
        str, typer.Option(envvar="SLUICE_HUB__TOKEN", help="For private models; better given by the variable.")
    ] = "",
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="Devices that share each layer.")] = 1,
    pipeline_parallel_size: Annotated[int, typer.Option(min=1, help="Groups of them that share the layers.")] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, envvar="LWS_GROUP_SIZE", help="Hosts of one engine, each running this command.")
    ] = 1,
    node_rank: Annotated[
        int, typer.Option(min=0, envvar="LWS_WORKER_INDEX", help="Which of them this is; 0 leads and registers.")
    ] = 0,
    leader: Annotated[
        str, typer.Option(envvar="LWS_LEADER_ADDRESS", help="Where the other hosts reach that of rank 0.")
    ] = "",
    leader_port: Annotated[int, typer.Option(min=1, max=65535, help="Its port for them.")] = PORT,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="A LoRA adapter: NAME=SOURCE, a folder or a ModelScope id. [repeatable]"),
    ] = None,
    adapters_max: Annotated[
        int, typer.Option(min=0, help="Adapters at once, also such as the pool gets later. Default: those named.")
    ] = 0,
    sleep_mode: Annotated[
        bool, typer.Option(help="Let the engine sleep by `sluice worker sleep`. Keep its port from strangers: no key.")
    ] = False,
    engine_env: Annotated[
        list[str] | None, typer.Option(help="For the engine's environment: NAME=VALUE. [repeatable]")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(exists=True, help="Certificate (PEM) with which the engine serves https.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(exists=True, help="Its private key (PEM).")] = None,
    ca_file: Annotated[
        Path | None, typer.Option(exists=True, help="Authority (PEM) of the gateways' certificates.")
    ] = None,
) -> None:
    """
    Run an engine and its agent: start, readiness by a real completion, beats to the gateways, restarts.

    SIGTERM or Ctrl-C drains: no new requests, those in the engine finish, then it ends. A second one ends it at once.
    """
    names, adapters = tuple(served_name or [_default_name(model)]), _pairs("--adapter", adapter)
    options = WorkerOptions(
        model=model,
        served_names=names,
        pool=pool or names[0],
        gateways=tuple(gateway or ["http://127.0.0.1:8080"]),
        home=home.absolute(),
        token=token,
        worker_id=worker_id or default_worker_id(),
        host=host,
        advertise_host=advertise_host or _default_advertised(host),
        port=port,
        engine=engine,
        engine_args=tuple(engine_arg or ()),
        max_num_seqs=max_num_seqs,
        max_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        threads=threads or default_threads(),
        log_file=log_file,
        start_s=start_s,
        warm_up_s=warm_up_s,
        drain_s=drain_s,
        models=Models(home.absolute(), models_dir, Hub(hub_endpoint, hub_token), revision),
        adapters=adapters,
        adapters_max=adapters_max or len(adapters),
        can_sleep=sleep_mode,
        engine_env=_pairs("--engine-env", engine_env),
    )
    spread = {"tensor": tensor_parallel_size, "pipeline": pipeline_parallel_size, "nodes": nodes}
    _configure_logs()
    try:
        parallel = Parallel(**spread, node_rank=node_rank, leader=leader, port=leader_port)
        tls = Tls(cert=tls_cert, key=tls_key, ca=ca_file)
        asyncio.run(_run(replace(options, parallel=parallel, tls=tls)))
    except WorkerError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error


async def _run(options: WorkerOptions) -> None:
    agent = Agent(options) if options.parallel.is_leader else Follower(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.leave)
    await agent.run()


def _pairs(option: str, texts: list[str] | None) -> tuple[tuple[str, str], ...]:
    """Read NAME=VALUE pairs."""
    for text in texts or ():
        if not text.partition("=")[0] or "=" not in text:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint=option)
    return tuple((text.partition("=")[0], text.partition("=")[2]) for text in texts or ())


def _default_name(model: str) -> str:
    """Give what clients will call *model*: a folder's own name, an id as it is."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _default_advertised(host: str) -> str:
    return socket.gethostname() if host == "0.0.0.0" else host  # noqa: S104 (compared, not bound)


def _configure_logs() -> None:
    """Log one line per event to standard error: JSON for machines, readable on a terminal."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
