"""Jobs in Redis: streams with a consumer group, a hash per job. lua/jobs.lua has the keys and what each holds."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from gateway.core.directory import ServiceClass
from gateway.core.jobs import Job, JobState, JobView
from gateway.core.outcome import Outcome
from gateway.errors import Refused
from gateway.ports.jobs import DueWebhook, Haul, Taken
from gateway.stores.redis_client import RedisClient, Script, redis_answering

RETRY_AFTER_S_MAX = 60
WEBHOOK_LEASE_MS = 60_000  # longer than any attempt: then its sender has died
_NEITHER = -1
_SHOWN = {"waiting": JobState.QUEUED, "taken": JobState.QUEUED, "released": JobState.QUEUED}

_VERBS = ("enter", "view", "take", "renew", "release", "finish", "hooks", "told")
_SCRIPTS = {verb: Script("jobs", f"job_{verb}") for verb in _VERBS}


@dataclass(frozen=True, slots=True)
class JobTimes:
    """
    How long things last, in seconds.

    A runner's lease; a result, from the end of its job; a job's address and its idempotency key, from its submission.
    """

    lease_s: float
    kept_s: float
    known_s: float


class RedisJobs:
    """
    The JobStore in Redis (6.2 or newer, persistent). *runner* must be new at every start of a process.

    The keys of a pool share a hash tag. Two small ones do not: a job's id leads to its pool, an idempotency key to its
    job; both are written before the job is entered, so that whoever knows the id finds it.
    """

    def __init__(self, redis: RedisClient, runner: str, times: JobTimes, *, store_timeout_s: float = 0.5) -> None:
        self._redis = redis
        self._runner = runner
        self._times = times
        self._store_timeout_s = store_timeout_s

    async def reserve(self, tenant: str, key: str, job_id: str, fingerprint: str) -> tuple[str, str]:
        name = f"sluice:job-key:{tenant}:{hashlib.sha256(key.encode()).hexdigest()}"
        async with redis_answering(self._store_timeout_s):
            own = f"{job_id} {fingerprint}"
            is_new = await self._redis.set(name, own, nx=True, px=_ms(self._times.kept_s))
            bound = own if is_new else str(await self._redis.get(name) or own)
        bound_id, _, bound_fingerprint = bound.partition(" ")
        return bound_id, bound_fingerprint

    async def enter(self, job: Job, waiting_max: int) -> JobView:
        async with redis_answering(self._store_timeout_s):
            await self._redis.set(_pool_key(job.id), job.pool, px=_ms(self._times.known_s))
        number = int(ServiceClass[job.service_class.upper()])
        word, *said = await self._run(
            "enter", job.pool, job.id, number, job.tenant, job.arrived_ms, waiting_max, job.webhook_url
        )
        if word == "full":
            raise _full(job.pool, *said)
        return _view(said)

    async def view(self, job_id: str) -> JobView | None:
        async with redis_answering(self._store_timeout_s):
            pool = await self._redis.get(_pool_key(job_id))
        if pool is None:
            return None
        said = await self._run("view", str(pool), job_id)
        return _view(said) if said else None

    async def take(self, pool: str, count: int) -> Haul:
        waiting, unfinished, *said = await self._run("take", pool, self._runner, _ms(self._times.lease_s), count)
        jobs = [Taken(job_id, attempt) for job_id, attempt in zip(said[::2], said[1::2], strict=True)]
        return Haul(jobs, waiting, unfinished)

    async def renew(self, pool: str, jobs: Mapping[str, bool]) -> Collection[str]:
        fields = [field for job_id, is_running in jobs.items() for field in (job_id, int(is_running))]
        return set(await self._run("renew", pool, self._runner, *fields))

    async def release(self, pool: str, job_id: str, *, delay_s: float, counts: bool) -> None:
        idle_ms = _ms(max(0.0, self._times.lease_s - delay_s))
        await self._run("release", pool, self._runner, job_id, idle_ms, int(counts))

    async def finish(self, pool: str, job_id: str, state: JobState) -> bool:
        return bool(await self._run("finish", pool, job_id, state.value, _ms(self._times.kept_s)))

    async def due_webhooks(self, pool: str, count: int) -> Sequence[DueWebhook]:
        due = await self._run("hooks", pool, count, WEBHOOK_LEASE_MS)
        return [DueWebhook(_view(view), url, attempt) for view, url, attempt in due]

    async def settle_webhook(self, pool: str, job_id: str, retry_in_s: float | None) -> None:
        await self._run("told", pool, job_id, _NEITHER if retry_in_s is None else _ms(retry_in_s))

    async def _run(self, verb: str, pool: str, *args: str | int) -> list[Any]:
        async with redis_answering(self._store_timeout_s):
            return await _SCRIPTS[verb].run(self._redis, [f"sluice:{{{pool}}}:jobs"], args)


def _pool_key(job_id: str) -> str:
    return f"sluice:job:{job_id}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _view(said: Sequence[Any]) -> JobView:
    job_id, tenant, state, arrived_ms, finished_ms, position, eta_ms = said
    return JobView(
        id=job_id,
        tenant=tenant,
        state=_SHOWN.get(state) or JobState(state),
        arrived_ms=int(arrived_ms),
        finished_ms=int(finished_ms or 0),
        position=None if position == _NEITHER else position,
        eta_s=None if eta_ms == _NEITHER else eta_ms / 1000,
    )


def _full(pool: str, waiting: int, pace_ms: int) -> Refused:
    message = f"{waiting} jobs wait for the pool {pool!r}, and no more may. Retry later."
    retry_after_s = RETRY_AFTER_S_MAX if pace_ms == _NEITHER else min(RETRY_AFTER_S_MAX, ceil(pace_ms / 1000))
    return Refused(Outcome.QUEUE_FULL, message, retry_after_s=retry_after_s)
