"""How a worker is to run: the options of `sluice worker`, checked."""

import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from workers.agent.model import Models
from workers.engines.parallel import Parallel
from workers.errors import WorkerError

EngineKind = Literal["vllm", "sim"]


def default_worker_id() -> str:
    """Make an id that is readable and new: two workers on one machine must differ."""
    return f"{socket.gethostname()}-{secrets.token_hex(3)}"


def default_threads() -> int:
    """Give all cores but one, which the API server in front of the engine needs for itself."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """
    Files of certificates. *cert* and *key* are what the engine shows its gateways, which then reach it by https.

    *ca* vouches for the gateways the worker reports to, besides the authorities the system knows.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) is not (self.key is None):
            raise WorkerError("--tls-cert and --tls-key go together: give both or none.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """
    A worker. *port* 0 takes a free one at each start of the engine; *advertise_host* is where gateways reach it.

    *adapters* are LoRA adapters by the name clients ask for, each a folder or a ModelScope id; up to *adapters_max* at
    once, which may be 0. *engine_env* is added to the engine's environment.
    """

    model: str
    served_names: tuple[str, ...]
    pool: str
    gateways: tuple[str, ...]
    home: Path
    token: str = field(default="", repr=False)
    worker_id: str = field(default_factory=default_worker_id)
    host: str = "127.0.0.1"
    advertise_host: str = "127.0.0.1"
    port: int = 0
    engine: EngineKind = "vllm"
    engine_args: tuple[str, ...] = ()
    engine_env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    parallel: Parallel = field(default_factory=Parallel)
    adapters: tuple[tuple[str, str], ...] = ()
    adapters_max: int = 0
    can_sleep: bool = False
    tls: Tls = field(default_factory=Tls)
    max_num_seqs: int = 256
    max_batched_tokens: int | None = None
    max_model_len: int | None = None
    threads: int = field(default_factory=default_threads)
    log_file: Path | None = None
    start_s: float = 1800.0
    warm_up_s: float = 300.0
    drain_s: float = 120.0
    models: Models | None = None  # where models come from; None: all by default, under home

    @property
    def log_path(self) -> Path:
        return self.log_file or self.home / "logs" / f"engine-{self.worker_id}.log"

    @property
    def stages_path(self) -> Path:
        return self.home / "run" / "start-times.json"

    @property
    def record_path(self) -> Path:
        return self.home / "run" / f"{self.worker_id}.engine.json"
