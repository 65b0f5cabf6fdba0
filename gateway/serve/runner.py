"""
Runs jobs: takes them, sends them down the path of any request, keeps the result, closes the bill, and is done.

The order is what makes a job billed once and exactly (docs/adr/0004-async-lane.md): the result is kept, then the meter
event is closed from what is kept, then the store is told. A gateway that dies between any two of these leaves a job
that the next runner finds with its result: it only closes and tells.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from gateway.core.jobs import Job, JobResult, JobState
from gateway.core.outcome import Fault, Outcome
from gateway.errors import Refused, StoreUnavailable
from gateway.ports.jobs import JobStore, Taken
from gateway.serve.job_archive import JobArchive
from gateway.serve.job_end import end_job
from gateway.serve.job_run import Handler, RunFailed, bare_event, failed, run_job
from gateway.serve.loops import insist, repeat
from gateway.serve.plane import Plane

POLL_S = 1.0  # how soon a job that another gateway took in is seen; one taken in here is seen at once
IDLE_POLL_S = 5.0  # the same where all jobs of a pool had ended at the last look: it is one call to the store
BEATS_PER_LEASE = 5  # four may be lost before another gateway runs the job too
END_S_MAX = 2.0  # what a gateway that stops gives its jobs to end that need no more than a store
NO_CAPACITY_PAUSE_S = 2.0  # a pool that could not serve a job is left alone for so long

_OWN_LIMITS = frozenset({Outcome.LIMITED, Outcome.BUDGET_UNAVAILABLE})  # of whoever sent the job
LIMIT_PAUSE_S = 1.0  # at least, before a job that met a limit is tried again

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RunnerRules:
    """How many jobs run at once here, how often one is tried, how long it may take in all, its lease (see JobStore)."""

    concurrency: int
    attempts_max: int
    limit_s: float
    lease_s: float


@dataclass(slots=True, eq=False)
class _Run:
    """A job that runs here."""

    pool: str
    taken: Taken
    task: asyncio.Task[None] | None = None
    is_on_engine: bool = False
    is_ending: bool = False  # its result is kept: nothing that happens now makes it another one


class Runner:
    """
    The jobs of one gateway; `on_end` is told when one has ended.

    *handlers* are the endpoints by path, *pools* names the pools whose jobs it takes, *slots* tells how many requests
    a pool takes at once. It takes no more jobs of a pool than that, so that jobs do not crowd the line; where no
    worker is ready it tries one at a time.
    """

    def __init__(
        self,
        store: JobStore,
        archive: JobArchive,
        plane: Plane,
        handlers: Mapping[str, Handler],
        pools: Callable[[], Sequence[str]],
        slots: Callable[[str], int],
        rules: RunnerRules,
    ) -> None:
        self._store = store
        self._archive = archive
        self._plane = plane
        self._handlers = handlers
        self._pools = pools
        self._slots = slots
        self._rules = rules
        self._runs: dict[str, _Run] = {}
        self.on_end: Callable[[], None] = lambda: None
        self._paused_until_s: dict[str, float] = {}
        self._idle_until_s: dict[str, float] = {}
        self._has_news = asyncio.Event()
        self._has_dispatched = asyncio.Event()
        self._is_draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self.waiting: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Runner [{len(self._runs)} running]>"

    async def start(self) -> None:
        """Begin to take jobs."""
        beat_s = self._rules.lease_s / BEATS_PER_LEASE
        self._tasks = [
            asyncio.create_task(repeat("take_jobs", POLL_S, self._take, self._has_news)),
            asyncio.create_task(repeat("renew_jobs", beat_s, self._renew, self._has_dispatched)),
        ]

    def begin_drain(self) -> None:
        """Take no more jobs, and give back at once those that no engine has seen; those on one go on."""
        self._is_draining = True
        for run in self._runs.values():
            if run.task is not None and not (run.is_on_engine or run.is_ending):
                run.task.cancel()

    async def aclose(self, within_s: float = 0.0) -> None:
        """Let what runs end *within_s*, then give the rest back: other gateways run it from its beginning."""
        self.begin_drain()
        if running := [run.task for run in self._runs.values() if run.task]:
            await asyncio.wait(running, timeout=within_s)
        if ending := [run.task for run in self._runs.values() if run.task and run.is_ending]:
            await asyncio.wait(ending, timeout=END_S_MAX)
        tasks = [*self._tasks, *(run.task for run in self._runs.values() if run.task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Look for jobs at once."""
        self._idle_until_s.clear()
        self._has_news.set()

    def stop(self, job_id: str) -> None:
        """Stop a job if it runs here: it was cancelled, or another gateway runs it now. One that is ending ends."""
        run = self._runs.get(job_id)
        if run is not None and run.task is not None and not run.is_ending:
            run.task.cancel()

    async def _take(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for pool in self._pools():
            if self._idle_until_s.get(pool, 0) <= now_s:
                await self._take_of(pool, now_s)

    async def _take_of(self, pool: str, now_s: float) -> None:
        haul = await self._store.take(pool, self._room(pool))
        self.waiting[pool] = haul.waiting
        if not haul.unfinished:
            self._idle_until_s[pool] = now_s + IDLE_POLL_S
        for taken in haul.jobs:
            self._begin(pool, taken)

    def _room(self, pool: str) -> int:
        """How many more jobs of *pool* may run here."""
        if self._is_draining or self._paused_until_s.get(pool, 0) > asyncio.get_running_loop().time():
            return 0
        running_here = sum(run.pool == pool for run in self._runs.values())
        appetite = max(1, self._slots(pool))
        return max(0, min(self._rules.concurrency - len(self._runs), appetite - running_here))

    def _begin(self, pool: str, taken: Taken) -> None:
        if taken.id in self._runs:  # our own lease ran out while we were too slow to renew it: the run goes on
            return
        run = self._runs[taken.id] = _Run(pool, taken)
        run.task = asyncio.create_task(self._supervise(run), name=f"job {taken.id}")

    async def _renew(self) -> None:
        for pool in self._pools():
            running = {job_id: run.is_on_engine for job_id, run in self._runs.items() if run.pool == pool}
            for job_id in await self._store.renew(pool, running) if running else ():
                self.stop(job_id)

    async def _supervise(self, run: _Run) -> None:
        """Run one job to its end, or to where another runner can take it up."""
        try:
            await self._run(run)
        except asyncio.CancelledError:
            if self._is_draining:
                await self._give_back(run, counts=False)
            raise
        except StoreUnavailable as error:
            log.warning("job_interrupted", request_id=run.taken.id, reason=str(error))
            await self._give_back(run, counts=False, delay_s=self._rules.lease_s)
        except Exception:  # the edge of a job: its lease runs out, and the next attempt counts
            log.exception("bug", request_id=run.taken.id)
        finally:
            self._plane.holds.release(run.taken.id)  # of what came to no answer; else it is settled
            self._runs.pop(run.taken.id, None)
            self.wake()

    async def _run(self, run: _Run) -> None:
        job_id = run.taken.id
        result, kept = await self._archive.result(job_id), await self._archive.request(job_id)
        if result is None and kept is None:
            log.error("job_body_lost", request_id=job_id)
            await self._store.finish(run.pool, job_id, JobState.FAILED)
            return
        if result is None and kept is not None:
            made = await self._answer(run, *kept)
            if made is None:
                return
            result = await insist(lambda: self._archive.put_result(job_id, made))
        assert result is not None, "a job without a result was just run"
        run.is_ending = True
        await insist(lambda: end_job(self._store, self._archive, self._plane, run.pool, result))
        self.on_end()

    async def _answer(self, run: _Run, job: Job, body: bytes) -> JobResult | None:
        """Run the job once; gives its result, or None if it was given back to be tried again."""
        if run.taken.attempt > self._rules.attempts_max:
            return self._given_up(job)
        try:
            handler = self._handlers[job.path]
            return await run_job(job, body, run.taken.attempt, self._plane, handler, lambda: self._note_dispatch(run))
        except RunFailed as failure:
            is_last = run.taken.attempt == self._rules.attempts_max
            if self._is_too_late(job) or not _may_pass(failure.refusal, is_last=is_last):
                return failed(failure.refusal, failure.event)
            log.info("job_delayed", request_id=job.id, reason=failure.refusal.code)
            await self._postpone(run, failure.refusal)
            return None

    def _note_dispatch(self, run: _Run) -> None:
        run.is_on_engine = True
        self._has_dispatched.set()

    async def _postpone(self, run: _Run, refusal: Refused) -> None:
        if refusal.outcome in _OWN_LIMITS:  # that says nothing of the pool: other tenants' jobs go on
            await self._give_back(run, counts=False, delay_s=_clears_in_s(refusal))
            return
        is_workers_fault = refusal.outcome.fault is Fault.WORKER
        if not is_workers_fault:
            self._paused_until_s[run.pool] = asyncio.get_running_loop().time() + NO_CAPACITY_PAUSE_S
        await self._give_back(run, counts=is_workers_fault, delay_s=NO_CAPACITY_PAUSE_S)

    def _given_up(self, job: Job) -> JobResult:
        tries = self._rules.attempts_max
        message = f"The gateways that ran this job died {tries} times before it ended, so it is not tried again."
        return failed(Refused(Outcome.BUG, message), bare_event(job, self._plane, Outcome.BUG))

    def _is_too_late(self, job: Job) -> bool:
        return self._plane.metering.now_ms() - job.arrived_ms > self._rules.limit_s * 1000

    async def _give_back(self, run: _Run, *, counts: bool, delay_s: float = 0.0) -> None:
        with suppress(StoreUnavailable):  # then its lease runs out
            await self._store.release(run.pool, run.taken.id, delay_s=delay_s, counts=counts)


def _may_pass(refusal: Refused, *, is_last: bool) -> bool:
    """Tell whether trying again can help: capacity comes back by itself, workers get as many tries as rules say."""
    if refusal.outcome.fault is Fault.WORKER:
        return not is_last
    if refusal.outcome in _OWN_LIMITS and not _clears_in_s(refusal):
        return False
    return refusal.outcome.fault is Fault.GATEWAY and refusal.outcome is not Outcome.BUG


def _clears_in_s(refusal: Refused) -> float:
    """Tell when a job that met a limit or budget of its own may be tried again; 0: never."""
    clears_in_s = refusal.limit.get("clears_in_s") if refusal.limit else None
    wait_s = refusal.retry_after_s if clears_in_s is None else clears_in_s
    return 0.0 if wait_s is None else max(LIMIT_PAUSE_S, wait_s)
