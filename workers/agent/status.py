"""What an agent knows of its engine, and the beat it tells of it."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from workers.agent.stages import Stages
from workers.agent.worker_state import WorkerState
from workers.engines.vllm import EngineMetrics


@dataclass(slots=True, kw_only=True)
class Status:
    """
    A worker at this moment. Whoever must hear of changes at once adds an event to *listeners*.

    `probe_*` are the tokens of the agent's own requests within the engine's counters, as the gateways subtract them.
    *engine* is its kind: gateways tell drills by it whether an engine is simulated. *stages* know how long a start
    takes; *progress* says in words how far a download is, *adapter_trouble* which LoRA adapters are missing and why.
    """

    pool: str
    models: tuple[str, ...]
    max_seqs: int
    max_batched_tokens: int
    engine: str = "vllm"
    state: WorkerState = WorkerState.STARTING
    url: str = ""
    engine_key: str = field(default="", repr=False)
    max_model_len: int = 0
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    probe_prompt_tokens: int = 0
    probe_completion_tokens: int = 0
    restarts: int = 0
    cause: str = ""
    stages: Stages | None = None
    progress: str = ""
    adapter_trouble: str = ""
    listeners: set[asyncio.Event] = field(default_factory=set, repr=False)

    def change(self, state: WorkerState, cause: str = "") -> None:
        """Enter *state* and tell the listeners; a draining worker stays one."""
        if self.state is WorkerState.DRAINING:
            state = self.state
        self.state, self.cause = state, cause
        if self.stages is not None:
            self.stages.enter(state, time.monotonic())
        self.tell()

    def tell(self) -> None:
        """Have the listeners told that something has changed."""
        for listener in self.listeners:
            listener.set()

    def begin_engine(self, url: str, engine_key: str) -> None:
        """Forget the last engine's figures; a new one counts from zero."""
        self.url, self.engine_key = url, engine_key
        self.end_engine()

    def end_engine(self) -> None:
        """Note that there is no engine process now, so that no old figure is taken for its successor's."""
        self.metrics = EngineMetrics()
        self.probe_prompt_tokens = self.probe_completion_tokens = 0

    def beat(self) -> dict[str, Any]:
        """Give the body of a beat."""
        metrics = self.metrics
        return {
            "pool": self.pool,
            "models": list(self.models),
            "url": self.url,
            "state": self.state.value,
            "engine_key": self.engine_key,
            "running": metrics.running,
            "waiting": metrics.waiting,
            "kv_cache_usage": metrics.kv_cache_usage,
            "max_seqs": self.max_seqs,
            "max_model_len": self.max_model_len,
            "max_batched_tokens": self.max_batched_tokens,
            "engine_started_ms": round(metrics.started_s * 1000),
            "prompt_tokens_total": metrics.prompt_tokens_total,
            "completion_tokens_total": metrics.generation_tokens_total,
            "probe_prompt_tokens": self.probe_prompt_tokens,
            "probe_completion_tokens": self.probe_completion_tokens,
            "preemptions_total": metrics.preemptions_total,
            "restarts": self.restarts,
            "cause": self.cause or self.adapter_trouble,
            "engine": self.engine,
            "ready_in_s": self._ready_in_s(),
            "progress": self.progress,
        }

    def _ready_in_s(self) -> float | None:
        left_s = self.stages.left_s(time.monotonic()) if self.stages is not None else None
        return None if left_s is None else round(left_s, 1)
