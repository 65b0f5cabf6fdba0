"""The command lines and environments of the gateway and the workers that `sluice up` runs."""

import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from gateway.commands.local.children import Program
from gateway.commands.local.home import Credentials, Place
from gateway.commands.local.scaling import Range
from gateway.core.pools import PoolSpec
from gateway.settings import Settings

WORKER_STOP_S_MAX = 40.0  # an agent drains its engine before it stops it
# One that leaves while others go on has clients: its agent drains for 120 s and then gives the engine 10 s.
SCALED_STOP_S_MAX = 140.0
GATEWAY_STOP_MARGIN_S = 10.0  # beyond the drain: closing the spool, shipping what is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """
    The model of this installation: the folder or name given to the engine, and the name that clients ask for.

    *pool* is what sluice.yaml declares under its name; without it the pool is called as the model is.
    """

    source: str
    name: str
    pool: PoolSpec | None = None
    engine: str = "vllm"
    max_num_seqs: int | None = None
    engine_args: tuple[str, ...] = field(default=())


def gateway_program(
    settings: Settings, credentials: Credentials, redis_url: str, scale: Range | None = None
) -> Program:
    """
    Prepare the gateway. Its secrets go by its environment: a command line is seen by everyone.

    *scale* is how many workers it may ask for, of pools that are not declared.
    """
    home = settings.home.absolute()
    return Program(
        name="gateway",
        argv=(sys.executable, "-m", "gateway", "serve"),
        environ={
            "SLUICE_HOME": str(home),
            "SLUICE_HOST": settings.host,
            "SLUICE_PORT": str(settings.port),
            "SLUICE_REDIS_URL": redis_url,
            "SLUICE_ADMIN_TOKEN": credentials.admin_token,
            "SLUICE_WORKER_TOKEN": credentials.worker_token,
            "SLUICE_DRAIN_ANNOUNCE_S": "0",  # there is no other gateway to go to
            **(
                {"SLUICE_SCALE__WORKERS_MIN": str(scale.least), "SLUICE_SCALE__WORKERS_MAX": str(scale.most)}
                if scale
                else {}
            ),
        },
        log=home / "logs" / "gateway.log",
        stop_s_max=settings.drain_s + GATEWAY_STOP_MARGIN_S,
    )


def worker_program(worker: str, served: Served, place: Place, home: Path, token: str, threads: int | None) -> Program:
    """Prepare the agent of one worker, which runs the engine; *threads* are the engine's on a CPU."""
    logs = home.absolute() / "logs"
    options = {
        "--model": served.source,
        "--pool": served.pool.name if served.pool else served.name,
        "--gateway": place.url,
        "--worker-id": worker,
        "--engine": served.engine,
        "--port": "0",
        "--home": str(home.absolute()),
        "--log-file": str(logs / f"{worker}-engine.log"),
    }
    if served.max_num_seqs:
        options["--max-num-seqs"] = str(served.max_num_seqs)
    if threads:
        options["--threads"] = str(threads)
    arguments = [part for option in options.items() for part in option]
    names = served.pool.serves if served.pool else (served.name,)
    arguments += [f"--served-name={name}" for name in names]
    arguments += [f"--engine-arg={argument}" for argument in served.engine_args]
    return Program(
        name=worker,
        argv=(sys.executable, "-m", "gateway", "worker", *arguments),
        environ={"SLUICE_WORKER_TOKEN": token},
        log=logs / f"{worker}.log",
        stop_s_max=WORKER_STOP_S_MAX,
    )


def worker_names(count: int, *, is_redis_shared: bool) -> list[str]:
    """Name the workers; where other machines share the Redis, so that no two machines use the same name."""
    prefix = f"{socket.gethostname()}-" if is_redis_shared else ""
    return [f"{prefix}worker-{number}" for number in range(1, count + 1)]


def threads_each(cores: int, workers: int) -> int:
    """
    Share the cores of a CPU machine out among its engines; one core is left to what stands in front of them.

    Threads of an engine spin while they wait: engines that each take all cores slow one another down by far more than
    their number.
    """
    return max(1, (cores - 1) // workers)
