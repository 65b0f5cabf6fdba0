"""What a worker says of itself, once a second."""

from dataclasses import dataclass, field
from enum import Enum


class WorkerState(Enum):
    """
    Where a worker is in its life. Only a ready one gets requests.

    A cordoned one is ready by its own word, and gets none by an operator's (core/orders.py).
    """

    STARTING = "starting"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    CORDONED = "cordoned"
    SLEEPING = "sleeping"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """
    One beat of a worker's agent. *url* is where gateways reach the engine, *engine_key* the bearer it asks for.

    `*_total` are the engine's cumulative counters since *engine_started_ms* (Unix ms; 0 while it is not up);
    `probe_*` are the agent's own readiness requests within them. *cause* says why the engine is down, for people.
    *ready_in_s* is how long its start will still take, None if it does not know or has started; *progress* says in
    words how far a download is. *engine* is what runs there, "vllm" or "sim": who does not say has a real one, which
    no drill may burden.
    """

    worker: str
    pool: str
    models: tuple[str, ...]
    url: str
    state: WorkerState
    engine_key: str = field(default="", repr=False)
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    max_seqs: int = 0
    max_model_len: int = 0
    max_batched_tokens: int = 0
    engine_started_ms: int = 0
    prompt_tokens_total: int = 0
    completion_tokens_total: int = 0
    probe_prompt_tokens: int = 0
    probe_completion_tokens: int = 0
    preemptions_total: int = 0
    restarts: int = 0
    cause: str = ""
    engine: str = "vllm"
    ready_in_s: float | None = None
    progress: str = ""
