"""
The async lane as clients see it: a request is taken in for later, its ticket is asked for, its answer fetched.

`Prefer: respond-async` with any endpoint in *endpoints* leads to `submit`. Running is runner.py's business.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gateway.core.ids import digest
from gateway.core.jobs import Job, JobResult, JobState, JobView
from gateway.core.outcome import Outcome
from gateway.core.request import ChatRequest
from gateway.errors import Refused, StoreUnavailable
from gateway.ports.jobs import JobStore
from gateway.serve.authn import bearer
from gateway.serve.http import Call, Reply
from gateway.serve.job_archive import JobArchive
from gateway.serve.job_end import end_job
from gateway.serve.job_run import Handler, cancelled
from gateway.serve.metering import MeterRecord
from gateway.serve.plane import Plane
from gateway.serve.webhooks import HEADER as WEBHOOK_HEADER
from gateway.serve.webhooks import Webhooks
from gateway.serve.wishes import CLASS_HEADER, DEADLINE_HEADER, EVENTS_HEADER, QueueEvents, read_wishes

PREFIX = "/v1/queue/"
RESULT = "/result"
IDEMPOTENCY_HEADER = "Idempotency-Key"
IDEMPOTENCY_CHARS_MAX = 255
SPARE_S = 86_400.0
RETRY_AFTER_S, RETRY_AFTER_S_MAX = 5, 60
# What a run sees of the submission's headers; how long to wait, and what to be told meanwhile, are not its client's.
_KEPT_HEADERS = ("x-session-id", CLASS_HEADER.lower())
_SENT_ANYWAY = frozenset({"content-type", "x-request-id"})
_ID = re.compile(r"req_[0-9a-f]{32}")
_ASYNC = re.compile(r"(?:^|,)\s*respond-async\s*(?:$|[,;])", re.IGNORECASE)  # RFC 7240


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A generation endpoint whose requests may become jobs: how a body is read, and who answers it."""

    parse: Callable[[bytes, str | None], ChatRequest]
    handler: Handler


@dataclass(frozen=True, slots=True)
class JobRules:
    """How many may wait for a pool, how long a job may take from its submission, how long its result is kept."""

    waiting_max: int
    limit_s: float
    kept_s: float

    @property
    def known_s(self) -> float:
        """How long a job's id and body must be known from its submission, with time to spare for its last run."""
        return self.limit_s + self.kept_s + SPARE_S


class Runs(Protocol):
    """The runner of this gateway, as far as clients' calls concern it."""

    def wake(self) -> None:
        """Note that there is a job to take."""

    def stop(self, job_id: str) -> None:
        """Stop a job if it runs here; where it runs elsewhere, that gateway learns of it with its next heartbeat."""


class Jobs:
    """Takes jobs in and answers for them. Without a store (no Redis) it refuses: memory would not be durable."""

    def __init__(
        self,
        store: JobStore | None,
        runs: Runs | None,
        archive: JobArchive,
        webhooks: Webhooks,
        endpoints: Mapping[str, Endpoint],
        rules: JobRules,
    ) -> None:
        self._lane_if_any = (store, runs) if store and runs else None
        self._archive = archive
        self._webhooks = webhooks
        self._endpoints = endpoints
        self._rules = rules
        self._works: set[asyncio.Task[JobView]] = set()
        self.on_end: Callable[[], None] = lambda: None  # told when a job was cancelled here

    def wants(self, call: Call) -> bool:
        """Tell whether *call* asks to be answered later, at an endpoint that can."""
        prefers = call.headers.get(b"prefer", b"").decode("latin-1")
        return call.method == "POST" and call.path in self._endpoints and _ASYNC.search(prefers) is not None

    def methods(self, path: str) -> dict[str, Handler]:
        """Give the methods that *path*, of a job or of its result, takes."""
        return {"GET": self.serve} if path.endswith(RESULT) else {"GET": self.serve, "DELETE": self.serve}

    async def submit(self, call: Call, plane: Plane, reply: Reply) -> None:
        """Take *call* in as a job, or refuse it as its endpoint would; answers 202 with the ticket."""
        async with plane.metering.open(call) as record:
            record.caller = caller = plane.authn.identify(call.headers)  # 401
            record.wishes = read_wishes(call.headers, caller.service_class)  # 400, 403
            record.request = self._endpoints[call.path].parse(await call.body(), plane.cache_salt(caller))
            record.model = plane.route(record, reply)  # 404
            view = await self.take_in(call, record)  # 400, 409, 429, 503
        reply.headers += [(b"location", _status_url(view.id).encode()), (b"preference-applied", b"respond-async")]
        await self._answer(reply, view, 202)

    async def take_in(self, call: Call, record: MeterRecord) -> JobView:
        """
        Make a job of *call*, whose *record* knows all of it up to its model; the event is the job's from then on.

        For endpoints that have other words than `submit` for the same thing.
        """
        store, runs = self._lane
        job = await self._job(call, record)
        try:
            view = await self._whole(self._enter(store, job, await call.body()))
        except (asyncio.CancelledError, _MayBeEntered):  # a client that leaves here has left its job behind
            record.hand_over()
            raise
        record.hand_over()
        runs.wake()
        return view

    async def serve(self, call: Call, plane: Plane, reply: Reply) -> None:
        """Answer for one job: GET its status, GET its result, DELETE it."""
        tenant = plane.authn.identify(call.headers).tenant
        job_id = call.path.removeprefix(PREFIX)
        with _stores_answering():
            if job_id.endswith(RESULT):
                await self._serve_result(tenant, job_id.removesuffix(RESULT), reply)
            elif call.method == "DELETE":
                await self._answer(reply, await self._whole(self._cancel(tenant, job_id, plane)))
            else:
                await self._answer(reply, await self._found(tenant, job_id))

    def ticket(self, view: JobView) -> dict[str, Any]:
        """Give a job's ticket as clients and webhooks see it."""
        since_ms = view.finished_ms or view.arrived_ms
        return {
            "id": view.id,
            "object": "queue.ticket",
            "status": view.state.value,
            "position": view.position,
            "eta_s": None if view.eta_s is None else round(view.eta_s, 1),
            "status_url": _status_url(view.id),
            "result_url": _status_url(view.id) + RESULT,
            "expires_at": round(since_ms / 1000 + self._rules.kept_s),
        }

    @property
    def _lane(self) -> tuple[JobStore, Runs]:
        if self._lane_if_any is None:
            message = "This gateway takes no jobs: they need Redis, and the operator has set none. Ask without Prefer."
            raise Refused(Outcome.ASYNC_UNAVAILABLE, message, should_retry=False)
        return self._lane_if_any

    async def _whole(self, work: Coroutine[Any, Any, JobView]) -> JobView:
        """Do *work* to its end, also if the client leaves meanwhile."""
        task = asyncio.ensure_future(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        return await asyncio.shield(task)

    async def _job(self, call: Call, record: MeterRecord) -> Job:
        caller, model = record.admitted, record.model
        assert model is not None, "a model is found before a request for it becomes a job"
        webhook_url = call.headers.get(WEBHOOK_HEADER.lower().encode(), b"").decode("latin-1").strip()
        if webhook_url:
            await self._webhooks.check(webhook_url)
        return Job(
            id=call.id,
            path=call.path,
            tenant=caller.tenant,
            project=caller.project,
            key=caller.key,
            key_digest=digest(bearer(call.headers)),
            service_class=record.wished.service_class.label,
            model=model.name,
            pool=model.pool,
            is_stream=record.parsed.is_stream,
            arrived_ms=call.arrived_ms,
            idempotency_key=_idempotency_key(call),
            webhook_url=webhook_url,
            headers=self._kept_headers(call),
        )

    def _kept_headers(self, call: Call) -> dict[str, str]:
        kept = {name: value.decode("latin-1") for name in _KEPT_HEADERS if (value := call.headers.get(name.encode()))}
        own = {DEADLINE_HEADER: str(int(self._rules.limit_s * 1000)), EVENTS_HEADER: QueueEvents.NONE.value}
        return kept | {name.lower(): value for name, value in own.items()}

    async def _enter(self, store: JobStore, job: Job, body: bytes) -> JobView:
        """Put *job* in line, its body before it. One whose idempotency key is known is the job of that key."""
        with _stores_answering():
            if job.idempotency_key:
                job = await self._bound(store, job, body)
                if known := await store.view(job.id):
                    return known
            await self._archive.put_request(job, body)
        try:
            return await store.enter(job, self._rules.waiting_max)
        except StoreUnavailable as error:
            raise _MayBeEntered(error) from error
        except Refused:
            if not job.idempotency_key:  # otherwise it may be in line by another submission, and needs its body
                await self._archive.drop_request(job.id)
            raise

    async def _bound(self, store: JobStore, job: Job, body: bytes) -> Job:
        """Give *job* the id that its idempotency key is bound to; raise Refused(CONFLICT) if for another body."""
        fingerprint = hashlib.sha256(job.path.encode() + b"\0" + body).hexdigest()
        bound_id, bound_to = await store.reserve(job.tenant, job.idempotency_key, job.id, fingerprint)
        if bound_to != fingerprint:
            message = f"This {IDEMPOTENCY_HEADER} was used for another request. Take a new one for each request."
            raise Refused(Outcome.CONFLICT, message, param=IDEMPOTENCY_HEADER, code="idempotency_key_reused")
        return replace(job, id=bound_id)

    async def _view(self, tenant: str, job_id: str) -> JobView | None:
        if self._lane_if_any is None or not _ID.fullmatch(job_id):
            return None
        view = await self._lane_if_any[0].view(job_id)
        return view if view is not None and view.tenant == tenant else None

    async def _found(self, tenant: str, job_id: str) -> JobView:
        view = await self._view(tenant, job_id)
        if view is None:
            raise _unknown(job_id)
        return view

    async def _serve_result(self, tenant: str, job_id: str, reply: Reply) -> None:
        view = await self._found(tenant, job_id)
        result = await self._archive.result(job_id) if view.state.is_final else None
        if result is None:
            if view.state.is_final:  # it expired between the two looks
                raise _unknown(job_id)
            wait_s = min(RETRY_AFTER_S_MAX, view.eta_s or 1)
            message = f"The job {job_id} is {view.state.value}: its result is not ready. Ask again later."
            raise Refused(Outcome.CONFLICT, message, code="not_ready", retry_after_s=wait_s)
        headers = {name: value for name, value in result.headers.items() if name not in _SENT_ANYWAY}
        reply.headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        _sign(reply, job_id)
        await reply.answer(result.status, result.body, result.headers["content-type"].encode())

    async def _cancel(self, tenant: str, job_id: str, plane: Plane) -> JobView:
        """
        Have a job end as cancelled, unless it has ended: then raise Refused(CONFLICT), or give it if it was cancelled.

        Whether it was in time is decided where its result is put; what comes after may be done by any runner as well.
        """
        store, runs = self._lane
        view = await self._found(tenant, job_id)
        if not view.state.is_final and (result := await self._cancelled(job_id, plane)):
            await end_job(store, self._archive, plane, result.event.pool, result)
            runs.stop(job_id)
            self.on_end()
            view = await self._found(tenant, job_id)
        if view.state is not JobState.CANCELLED:
            message = f"The job {job_id} has ended, or is about to: its result is kept."
            raise Refused(Outcome.CONFLICT, message, code="job_ended", should_retry=False)
        return view

    async def _cancelled(self, job_id: str, plane: Plane) -> JobResult | None:
        """Put the result of a cancelled job, unless there is one; gives the one that counts. None: its body is lost."""
        kept = await self._archive.request(job_id)
        if kept is None:  # it is ending at this moment
            return await self._archive.result(job_id)
        return await self._archive.put_result(job_id, cancelled(kept[0], plane))

    async def _answer(self, reply: Reply, view: JobView, status: int = 200) -> None:
        _sign(reply, view.id)
        await reply.answer(status, json.dumps(self.ticket(view)).encode())


class _MayBeEntered(Refused):
    """The store of jobs did not answer: the job may be in line or not."""

    def __init__(self, error: StoreUnavailable) -> None:
        message = (
            f"{error}. The request may have been taken in or not: send it again with the same {IDEMPOTENCY_HEADER}, "
            f"and it is run once."
        )
        super().__init__(Outcome.ASYNC_UNAVAILABLE, message, retry_after_s=RETRY_AFTER_S)


@contextmanager
def _stores_answering() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        message = f"Jobs cannot be reached now: {error}. Those that were taken in are safe. Retry soon."
        raise Refused(Outcome.ASYNC_UNAVAILABLE, message, retry_after_s=RETRY_AFTER_S) from error


def _sign(reply: Reply, job_id: str) -> None:
    """Answer under the job's id: it is the one on the bill."""
    reply.headers = [header for header in reply.headers if header[0] != b"x-request-id"]
    reply.headers.append((b"x-request-id", job_id.encode()))


def _status_url(job_id: str) -> str:
    return PREFIX + job_id


def _unknown(job_id: str) -> Refused:
    message = (
        f"There is nothing with the id {job_id[:64]!r} of this tenant: no request that waits, and no job, or its "
        f"result has expired."
    )
    return Refused(Outcome.NOT_FOUND, message, code="job_not_found")


def _idempotency_key(call: Call) -> str:
    key = call.headers.get(IDEMPOTENCY_HEADER.lower().encode(), b"").decode("latin-1").strip()
    if len(key) > IDEMPOTENCY_CHARS_MAX:
        message = f"{IDEMPOTENCY_HEADER} is longer than {IDEMPOTENCY_CHARS_MAX} characters."
        raise Refused(Outcome.BAD_REQUEST, message, param=IDEMPOTENCY_HEADER)
    return key
