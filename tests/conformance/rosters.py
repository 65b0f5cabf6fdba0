"""Rosters of every kind, a clock to turn by hand, and beats."""

from contextlib import asynccontextmanager

from gateway.core.roster import Beat, WorkerState
from gateway.stores.memory_roster import MemoryRoster
from gateway.stores.redis_client import connect
from gateway.stores.redis_roster import RedisRoster


class HandClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@asynccontextmanager
async def open_roster(kind: str, url: str | None, clock, **options):
    """Open a started roster of *kind* (memory, redis)."""
    redis = connect(url) if kind == "redis" else None
    roster = RedisRoster(redis, clock, **options) if redis else MemoryRoster(clock, **options)
    await roster.start()
    try:
        yield roster
    finally:
        await roster.aclose()
        if redis:
            await redis.aclose()


def beat(worker: str = "w1", pool: str = "qwen", state: WorkerState = WorkerState.READY, **said) -> Beat:
    defaults = {
        "models": ("Qwen/Qwen3-0.6B",),
        "url": f"http://{worker}:8000",
        "engine_key": "sk-engine",
        "max_seqs": 8,
    }
    return Beat(worker=worker, pool=pool, state=state, **{**defaults, **said})
