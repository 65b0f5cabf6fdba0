"""The async lane put together: what takes jobs in, what runs them, and what tells of their end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.ports.jobs import JobStore
from gateway.ports.objects import ObjectStore
from gateway.serve.job_archive import JobArchive
from gateway.serve.jobs import Endpoint, JobRules, Jobs
from gateway.serve.messenger import Messenger
from gateway.serve.plane import Plane
from gateway.serve.runner import Runner, RunnerRules
from gateway.serve.webhooks import WebhookRules, Webhooks


@dataclass(frozen=True, slots=True)
class LaneRules:
    """What the parts of the lane go by."""

    jobs: JobRules
    runner: RunnerRules
    webhooks: WebhookRules


@dataclass(frozen=True, slots=True)
class JobLane:
    """A gateway's part of the async lane. Without a store of jobs only `jobs` is there, and refuses."""

    jobs: Jobs
    runner: Runner | None = None
    messenger: Messenger | None = None

    async def start(self) -> None:
        """Begin to run jobs."""
        if self.runner and self.messenger:
            await self.runner.start()
            await self.messenger.start()

    def begin_drain(self) -> None:
        """Take no more jobs to run, give back those that wait for an engine; those on one go on."""
        if self.runner:
            self.runner.begin_drain()

    async def aclose(self, within_s: float = 0.0) -> None:
        """Let what runs end *within_s*, and give the rest back."""
        if self.runner and self.messenger:
            await self.runner.aclose(within_s)
            await self.messenger.aclose()

    def waiting(self) -> dict[str, float]:
        """Count by pool the jobs that wait, as last seen."""
        return dict(self.runner.waiting) if self.runner else {}


def make_lane(
    store: JobStore | None,
    objects: ObjectStore,
    plane: Plane,
    endpoints: Mapping[str, Endpoint],
    slots: Callable[[str], int],
    rules: LaneRules,
) -> JobLane:
    """Put the lane together; *slots* tells how many requests of a pool its workers take now."""
    metering, limits = plane.metering, rules.jobs
    archive = JobArchive(objects, metering.now_ms, known_s=limits.known_s, kept_s=limits.kept_s)
    webhooks = Webhooks(rules.webhooks, metering.now_ms, metering.metrics.count_webhook)
    if store is None:
        return JobLane(Jobs(None, None, archive, webhooks, endpoints, limits))

    def pools() -> Sequence[str]:
        return sorted({pool for model in plane.directory.snapshot.models.values() for pool in model.pools})

    handlers = {path: endpoint.handler for path, endpoint in endpoints.items()}
    runner = Runner(store, archive, plane, handlers, pools, slots, rules.runner)
    jobs = Jobs(store, runner, archive, webhooks, endpoints, limits)
    messenger = Messenger(store, archive, webhooks, jobs.ticket, pools, rules.webhooks.pause_s)
    runner.on_end = jobs.on_end = messenger.wake
    return JobLane(jobs, runner, messenger)
