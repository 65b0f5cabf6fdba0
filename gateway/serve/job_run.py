"""
One run of a job: the same path that a request takes whose client waits, with nobody at the other end.

The path gets a real Call and a real Reply; what differs is where the reply's bytes go, where its meter event goes (into
the result, not into the spool), and that the caller is known by the key's digest, as its secret is not kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from gateway.core.jobs import Job, JobResult, JobState
from gateway.core.outcome import Outcome
from gateway.core.usage import Flag, MeterEvent, Usage
from gateway.errors import Refused, SluiceError
from gateway.ports.directory import DirectoryReader
from gateway.serve.authn import Authn, Caller
from gateway.serve.http import Call, Message, Reply, Scope
from gateway.serve.metering import Metering
from gateway.serve.plane import Plane

Handler = Callable[[Call, Plane, Reply], Awaitable[None]]

_NOT_KEPT = {"content-length", "cache-control", "x-accel-buffering"}

log = structlog.get_logger()


class RunFailed(Exception):  # noqa: N818
    """A run ended with *refusal* instead of an answer; *event* is the record that the path left, unbilled."""

    def __init__(self, refusal: Refused, event: MeterEvent) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.event = event


async def run_job(
    job: Job, body: bytes, attempt: int, plane: Plane, handler: Handler, on_dispatch: Callable[[], None]
) -> JobResult:
    """
    Send *job* through *handler* and collect what it answers; an engine's own refusal is an answer too.

    The run has an id of its own: of two attempts at once, by a gateway that was taken for dead and by another one, each
    has its own ticket in line.

    *on_dispatch* is told when a worker gets it. Raises RunFailed. Cancelling it leaves nothing behind, but for what it
    holds of limits and budgets: that lasts until the job is closed or its runner gives it back.
    """
    held = _HeldEvent(job.id, on_dispatch)
    metering = _RunMetering(held, plane.metering.metrics, plane.metering.now_ms, plane.metering.rules)
    authn = _KeyHolder(plane.directory, plane.metering.now_ms, job.key_digest)
    own = replace(plane, metering=metering, authn=authn, holds=plane.holds.of_job(job.id))
    collected = _Collected()
    call = await _call(job, body, attempt)
    try:
        await handler(call, own, Reply(call.scope, collected.send))
    except Refused as refusal:
        raise RunFailed(refusal, unbilled(held.event)) from refusal
    except SluiceError:
        raise
    except Exception as error:  # the edge of this request, as the front door is of others
        log.exception("bug", request_id=job.id, path=job.path)
        message = f"Something went wrong here; the operator finds it under the request id {job.id}."
        raise RunFailed(Refused(Outcome.BUG, message), unbilled(held.event)) from error
    state = JobState.COMPLETED if collected.status < 400 else JobState.FAILED
    event = replace(held.event, ttft_ms=None)  # nobody saw a first byte
    return JobResult(
        state=state, status=collected.status, headers=collected.headers, event=event, body=bytes(collected.body)
    )


def failed(refusal: Refused, event: MeterEvent) -> JobResult:
    """Give the result of a job that ends with *refusal*."""
    headers = {"content-type": "application/json"}
    status = refusal.outcome.status
    return JobResult(state=JobState.FAILED, status=status, headers=headers, event=event, body=refusal.body())


def cancelled(job: Job, plane: Plane) -> JobResult:
    """Give the result of a job that was cancelled: nothing was delivered, so nothing is billed."""
    refusal = Refused(Outcome.CANCELLED, f"The job {job.id} was cancelled, by its own tenant, before it ended.")
    event = bare_event(job, plane, Outcome.CLIENT_GONE)
    return replace(failed(refusal, event), state=JobState.CANCELLED)


def bare_event(job: Job, plane: Plane, outcome: Outcome) -> MeterEvent:
    """Make the meter event of a job that no run has left one of."""
    return MeterEvent(
        id=job.id,
        tenant=job.tenant,
        project=job.project,
        key=job.key,
        model=job.model,
        pool=job.pool,
        worker="",
        gateway=plane.metering.rules.gateway,
        service_class=job.service_class,
        outcome=outcome.label,
        status=outcome.status,
        flag=Flag.NONE.value,
        is_stream=job.is_stream,
        attempts=0,
        arrived_ms=job.arrived_ms,
        ended_ms=plane.metering.now_ms(),
        queue_ms=None,
        ttft_ms=None,
        prompt_tokens=0,
        cached_tokens=0,
        completion_tokens=0,
        reasoning_tokens=0,
        undelivered_tokens=0,
    )


def unbilled(event: MeterEvent) -> MeterEvent:
    """Take the tokens off the bill: what was collected of an answer that broke off is not delivered to anybody."""
    return replace(
        event,
        flag=Flag.NONE.value,
        ttft_ms=None,
        prompt_tokens=0,
        cached_tokens=0,
        completion_tokens=0,
        reasoning_tokens=0,
        undelivered_tokens=event.completion_tokens + event.undelivered_tokens,
        images=0,
        audio_ms=0,
    )


async def _call(job: Job, body: bytes, attempt: int) -> Call:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in job.headers.items()]
    scope: Scope = {"type": "http", "method": "POST", "path": job.path, "headers": headers}
    messages: list[Message] = [{"type": "http.disconnect"}, {"type": "http.request", "body": body}]

    async def receive() -> Message:
        return messages.pop()

    call = Call(scope, receive, id=f"{job.id}-{attempt}", arrived_ms=job.arrived_ms, body_bytes_max=len(body))
    await call.run()
    return call


class _Collected:
    """What a reply sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"])
            self.headers = {name: value for name, value in headers if name not in _NOT_KEPT}
        else:
            self.body += message.get("body", b"")


class _HeldEvent:
    """
    A Spool that writes nothing: it holds the event of one run until its result is kept.

    An OPEN in the real one would be settled as interrupted if this gateway died, under the id of the job: the true
    amount, which comes with the run that ends it, would then be a duplicate and ignored.
    """

    def __init__(self, job_id: str, on_dispatch: Callable[[], None]) -> None:
        self._job_id = job_id
        self._on_dispatch = on_dispatch
        self._event: MeterEvent | None = None

    @property
    def event(self) -> MeterEvent:
        assert self._event is not None, "a path leaves an event, however it ends"
        return self._event

    def check(self) -> None: ...

    def open(self, event: MeterEvent) -> Awaitable[None]:  # noqa: ARG002  the port's name
        self._on_dispatch()
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        durable.set_result(None)
        return durable

    def progress(self, event_id: str, usage: Usage) -> None: ...

    async def close(self, event: MeterEvent) -> None:
        self.note(event)

    def note(self, event: MeterEvent) -> None:
        self._event = replace(event, id=self._job_id)


class _RunMetering(Metering):
    """Metering of one run, whose end is not yet the job's: who keeps the result counts it."""

    def ended(self, event: MeterEvent, error: BaseException | None, *, is_known: bool) -> None: ...


class _KeyHolder(Authn):
    """Identifies the one caller whose key has a known digest, by what the Directory says of it now."""

    def __init__(self, directory: DirectoryReader, now_ms: Callable[[], int], digest: str) -> None:
        super().__init__(directory, now_ms)
        self._digest = digest

    def identify(self, headers: dict[bytes, bytes]) -> Caller:  # noqa: ARG002  there is no secret in them
        snapshot = self._directory.snapshot
        key = snapshot.keys.get(self._digest)
        if key is None:
            raise Refused(Outcome.UNAUTHENTICATED, "The API key of this job does not exist any more.")
        return self._admit(key, snapshot.tenants.get(key.tenant))
