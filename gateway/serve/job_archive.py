"""
How jobs and their results lie in the object store: a line of JSON, then the body as it came.

The result is put once, whoever puts it: that decides between two runs of a job, and between its end and its
cancellation. What is billed is read from the result that is kept, so a job cannot be billed by one run and
answered by another.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from gateway.core.jobs import Job, JobResult, JobState
from gateway.core.usage import MeterEvent
from gateway.ports.objects import ObjectStore


class JobArchive:
    """Bodies and results by job id. All raise StoreUnavailable."""

    def __init__(self, objects: ObjectStore, now_ms: Callable[[], int], *, known_s: float, kept_s: float) -> None:
        self._objects = objects
        self._now_ms = now_ms
        self._known_s = known_s
        self._kept_s = kept_s

    async def put_request(self, job: Job, body: bytes) -> None:
        """Keep *job* with its body until it has ended. Idempotent by its id."""
        await self._objects.put(_request(job.id), _pack(asdict(job), body), self._in(self._known_s), is_vital=False)

    async def request(self, job_id: str) -> tuple[Job, bytes] | None:
        """Give a job that has not ended, with its body."""
        data = await self._objects.get(_request(job_id))
        if data is None:
            return None
        head, body = _unpack(data)
        return Job(**head), body

    async def drop_request(self, job_id: str) -> None:
        """Forget a body: its job has ended."""
        await self._objects.delete(_request(job_id))

    async def put_result(self, job_id: str, result: JobResult) -> JobResult:
        """Keep *result* unless there is one already; gives the one that counts."""
        event = asdict(result.event)
        head = {"state": result.state.value, "status": result.status, "headers": dict(result.headers), "event": event}
        if await self._objects.put(_result(job_id), _pack(head, result.body), self._in(self._kept_s), is_vital=True):
            return result
        return await self.result(job_id) or result  # None: the other one expired in this very moment

    async def result(self, job_id: str) -> JobResult | None:
        """Give the result of a job that has one."""
        data = await self._objects.get(_result(job_id))
        if data is None:
            return None
        head, body = _unpack(data)
        return JobResult(
            state=JobState(head["state"]),
            status=head["status"],
            headers=head["headers"],
            event=MeterEvent(**head["event"]),
            body=body,
        )

    async def sweep(self) -> int:
        """Delete what has expired."""
        return await self._objects.sweep()

    def _in(self, seconds: float) -> int:
        return self._now_ms() + int(seconds * 1000)


def _request(job_id: str) -> str:
    return f"requests/{job_id}"


def _result(job_id: str) -> str:
    return f"results/{job_id}"


def _pack(head: dict[str, Any], body: bytes) -> bytes:
    return json.dumps(head).encode() + b"\n" + body


def _unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    head, _, body = data.partition(b"\n")
    return json.loads(head), body
