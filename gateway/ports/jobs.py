"""Jobs on their way: who waits, who runs, who has ended. Bodies and results are elsewhere, in the ObjectStore."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.jobs import Job, JobState, JobView


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that this gateway shall run, for the *attempt*-th time (from 1)."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Haul:
    """What taking brought, how many jobs of the pool still wait, and how many have not ended, those taken included."""

    jobs: Sequence[Taken]
    waiting: int
    unfinished: int


@dataclass(frozen=True, slots=True)
class DueWebhook:
    """A message that is to be sent now, for the *attempt*-th time (from 1)."""

    view: JobView
    url: str = field(repr=False)
    attempt: int


class JobStore(Protocol):
    """
    The jobs of all pools, shared by all gateways and durable. This gateway is one runner among them.

    A job that was taken stays its runner's as long as `renew` is called for it; a runner that is silent for the lease
    loses it to the next one that takes. So a job may run twice, but only one result is ever kept: see ObjectStore.put.
    All raise StoreUnavailable within their time limit.
    """

    async def reserve(self, tenant: str, key: str, job_id: str, fingerprint: str) -> tuple[str, str]:
        """
        Bind the tenant's idempotency *key* to a job id, once; gives the id and the fingerprint it is bound to.

        Atomic. It is bound for as long as a result is kept.
        """

    async def enter(self, job: Job, waiting_max: int) -> JobView:
        """
        Put *job* in its tenant's line. Idempotent by its id: one that is known already stays as it is.

        Raises Refused(QUEUE_FULL) if *waiting_max* jobs wait for the pool.
        """

    async def view(self, job_id: str) -> JobView | None:
        """Tell how a job stands; None if there is none, or it ended longer ago than its result is kept."""

    async def take(self, pool: str, count: int) -> Haul:
        """
        Take up to *count* jobs to run: those whose runner fell silent first, then those that wait.

        Classes by urgency, every tenth turn the other way round, so that none starves; inside a class tenants take
        turns.
        """

    async def renew(self, pool: str, jobs: Mapping[str, bool]) -> Collection[str]:
        """
        Keep the jobs that run here, by id; true says that an engine is at work on it.

        Gives those that are ours no more: cancelled, or taken by another.
        """

    async def release(self, pool: str, job_id: str, *, delay_s: float, counts: bool) -> None:
        """Give a job back, to be taken again after *delay_s*; *counts* tells whether this was an attempt."""

    async def finish(self, pool: str, job_id: str, state: JobState) -> bool:
        """
        Note the final *state*; its result must be in the ObjectStore. Idempotent: the first one counts.

        From here the job is remembered for as long as its result is kept. Its webhook, if it has one, becomes due.
        """

    async def due_webhooks(self, pool: str, count: int) -> Sequence[DueWebhook]:
        """Take up to *count* messages that are due. One that is not settled within a minute becomes due again."""

    async def settle_webhook(self, pool: str, job_id: str, retry_in_s: float | None) -> None:
        """Have the message sent again in *retry_in_s*; None if it was received, or nobody shall try again."""
