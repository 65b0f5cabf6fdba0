"""A job: a request that was taken in for later, the states it goes through, and the answer that is kept for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gateway.core.usage import MeterEvent


class JobState(Enum):
    """Where a job is, as its ticket says; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    What is kept of a request beside its body, which is never logged.

    *id* is the request's own: its meter event and its bill carry it. *headers* are those that the run shall see.
    *key_digest* finds the key again when the job is run: a key that was revoked meanwhile runs nothing.
    """

    id: str
    path: str
    tenant: str
    project: str
    key: str
    key_digest: str = field(repr=False)
    service_class: str
    model: str
    pool: str
    is_stream: bool
    arrived_ms: int
    idempotency_key: str = field(default="", repr=False)
    webhook_url: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """
    How a job stands. *position* counts from 1 while it waits to be picked up; *eta_s* is when that will be.

    Both are None afterwards, and *eta_s* is where nothing was picked up lately. *finished_ms* is 0 until it is final.
    """

    id: str
    tenant: str
    state: JobState
    arrived_ms: int
    finished_ms: int = 0
    position: int | None = None
    eta_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """The answer that is kept: as it would have gone to a client that waited, with the event it is billed by."""

    state: JobState
    status: int
    headers: Mapping[str, str]
    event: MeterEvent
    body: bytes = field(repr=False)
