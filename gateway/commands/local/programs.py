"""The command lines and environments of the gateway and the workers that `sluice up` runs."""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.commands.local.children import Program
from gateway.commands.local.home import Credentials, Place
from gateway.settings import Settings

OMP_BIND = "VLLM_CPU_OMP_THREADS_BIND"
WORKER_STOP_S_MAX = 40.0  # an agent drains its engine before it stops it
GATEWAY_STOP_MARGIN_S = 10.0  # beyond the drain: closing the spool, shipping what is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The model of this installation: the folder or name given to the engine, and the name that clients ask for."""

    source: str
    name: str
    max_num_seqs: int | None = None
    engine_args: tuple[str, ...] = field(default=())


def gateway_program(settings: Settings, credentials: Credentials, redis_url: str) -> Program:
    """Prepare the gateway. Its secrets go by its environment: a command line is seen by everyone."""
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
        },
        log=home / "logs" / "gateway.log",
        stop_s_max=settings.drain_s + GATEWAY_STOP_MARGIN_S,
    )


def worker_program(worker: str, served: Served, place: Place, home: Path, token: str, cores: str | None) -> Program:
    """Prepare the agent of one worker, which runs the engine; *cores* is what its engine is bound to."""
    logs = home.absolute() / "logs"
    options = {
        "--model": served.source,
        "--served-name": served.name,
        "--pool": served.name,
        "--gateway": place.url,
        "--worker-id": worker,
        "--port": "0",
        "--home": str(home.absolute()),
        "--log-file": str(logs / f"{worker}-engine.log"),
    }
    if served.max_num_seqs:
        options["--max-num-seqs"] = str(served.max_num_seqs)
    arguments = [part for option in options.items() for part in option]
    arguments += [f"--engine-arg={argument}" for argument in served.engine_args]
    return Program(
        name=worker,
        argv=(sys.executable, "-m", "gateway", "worker", *arguments),
        environ={"SLUICE_WORKER_TOKEN": token} | ({OMP_BIND: cores} if cores else {}),
        log=logs / f"{worker}.log",
        stop_s_max=WORKER_STOP_S_MAX,
    )


def worker_names(count: int, *, is_redis_shared: bool) -> list[str]:
    """Name the workers; where other machines share the Redis, so that no two machines use the same name."""
    prefix = f"{socket.gethostname()}-" if is_redis_shared else ""
    return [f"{prefix}worker-{number}" for number in range(1, count + 1)]


def share_cores(cores: Sequence[int], workers: int) -> list[str | None]:
    """
    Give each CPU worker cores of its own, as VLLM_CPU_OMP_THREADS_BIND wants them; None leaves the choice to vLLM.

    vLLM binds every engine to the same cores when left alone, and its threads spin: two engines on one core halve each
    other several times over. More workers than cores take turns.
    """
    if workers == 1 or OMP_BIND in os.environ:
        return [None] * workers
    if workers >= len(cores):
        return [str(cores[worker % len(cores)]) for worker in range(workers)]
    share = len(cores) // workers
    return [",".join(map(str, cores[worker * share : (worker + 1) * share])) for worker in range(workers)]
