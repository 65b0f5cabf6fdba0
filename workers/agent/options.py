"""How a worker is to run: the options of `sluice worker`, checked."""

import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

EngineKind = Literal["vllm", "sim"]


def default_worker_id() -> str:
    """Make an id that is readable and new: two workers on one machine must differ."""
    return f"{socket.gethostname()}-{secrets.token_hex(3)}"


def default_threads() -> int:
    """Give all cores but one, which the API server in front of the engine needs for itself."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """A worker. *port* 0 takes a free one at each start of the engine; *advertise_host* is where gateways reach it."""

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
    max_num_seqs: int = 256
    max_batched_tokens: int | None = None
    max_model_len: int | None = None
    threads: int = field(default_factory=default_threads)
    log_file: Path | None = None
    start_s: float = 1800.0
    warm_up_s: float = 300.0
    drain_s: float = 120.0

    @property
    def log_path(self) -> Path:
        return self.log_file or self.home / "logs" / f"engine-{self.worker_id}.log"

    @property
    def record_path(self) -> Path:
        return self.home / "run" / f"{self.worker_id}.engine.json"
