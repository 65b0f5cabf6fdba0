"""
The meter record: outermost on a request's path, so that every request leaves exactly one event, however it ends.

A request that is dispatched is OPENed in the spool before a worker sees it and CLOSEd, durably, before the last byte
goes to the client. One that is refused before that leaves a note.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from gateway.core.directory import Model
from gateway.core.outcome import Outcome
from gateway.core.prices import PriceVersion
from gateway.core.request import ChatRequest
from gateway.core.routing import WorkerView
from gateway.core.sse import UsageTracker
from gateway.core.usage import Flag, MeterEvent, Part, Usage, parts_to_json
from gateway.errors import Refused, StoreUnavailable
from gateway.ports.journal import Spool
from gateway.serve.authn import Caller
from gateway.serve.http import Call, ClientGone
from gateway.serve.wishes import Wishes
from gateway.telemetry.metrics import Metrics

CHOICES_MAX = 2**31 - 1  # what the Journal's column holds; no engine makes so many

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class MeterRules:
    """Who writes the events, and how often an open stream notes its progress."""

    gateway: str
    progress_tokens: int
    progress_s: float


class Metering:
    """Opens a record per request; what they share."""

    def __init__(self, spool: Spool, metrics: Metrics, now_ms: Callable[[], int], rules: MeterRules) -> None:
        self.spool = spool
        self.metrics = metrics
        self.now_ms = now_ms
        self.rules = rules

    def open(self, call: Call) -> "MeterRecord":
        """Begin the record of *call*; use it as an async context manager."""
        return MeterRecord(self, call)

    def ended(self, event: MeterEvent, error: BaseException | None, *, is_known: bool) -> None:
        """Count and log a request that ended; *is_known* tells whether its model is declared."""
        self.metrics.count(event, is_known=is_known)
        if isinstance(error, Refused):
            self.metrics.count_refusal(error.code, event.service_class)
        _log(event, error)


class MeterRecord:
    """
    One request's record while it is under way; filled in along the path.

    *seen* is the usage that reached the gateway, *delivered* what of it went to the client: the bill. *price* is the
    version that is in force for it, from its arrival on, whatever is declared meanwhile.

    *on_progress* is called with what has been delivered whenever a PROGRESS is noted; it may raise Refused, which ends
    the stream there. *on_settled* is called once with the final event, on every way out but that of
    a request that became a job. Both are called on the event loop, must not block, and are None unless somebody needs
    them.
    """

    def __init__(self, metering: Metering, call: Call) -> None:
        self._metering = metering
        self._call = call
        self._worker = ""
        self._attempts = 0
        self._opened: Awaitable[None] | None = None
        self._tracker: UsageTracker | None = None
        self._settled: MeterEvent | None = None
        self._is_handed_over = False
        self._progress_tokens = 0
        self._progress_ms = 0
        self._first_byte_ms: int | None = None
        self._parts: list[Part] = []
        self._carried = 0  # tokens of the answer that the worker now at it was given
        self._dropped = 0  # that workers made and that were made again, as no other worker could go on behind them
        self.caller: Caller | None = None
        self.wishes: Wishes | None = None
        self.request: ChatRequest | None = None
        self.model: Model | None = None
        self.price: PriceVersion | None = None
        self.on_progress: Callable[[Usage], None] | None = None
        self.on_settled: Callable[[MeterEvent], None] | None = None
        self.queue_ms: int | None = None
        self.granted_ms: int | None = None
        self.seen = Usage()
        self.delivered = Usage()

    @property
    def id(self) -> str:
        return self._call.id

    @property
    def arrived_ms(self) -> int:
        return self._call.arrived_ms

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self._call.headers

    @property
    def admitted(self) -> Caller:
        """The caller of a request that has come past the door."""
        assert self.caller is not None, "a caller is identified before its request is admitted"
        return self.caller

    @property
    def wished(self) -> Wishes:
        """What its caller wishes of the queue."""
        assert self.wishes is not None, "wishes are read before a request is admitted"
        return self.wishes

    @property
    def parsed(self) -> ChatRequest:
        """The request, which by now has been parsed."""
        assert self.request is not None, "a request is parsed before it is admitted"
        return self.request

    @property
    def settled(self) -> MeterEvent:
        """The event of a request that has been settled."""
        assert self._settled is not None, "a record is settled before its event is asked for"
        return self._settled

    @property
    def spent(self) -> int:
        """The work done for it so far, in the tokens of a ticket's: the prompt from its dispatch on, then as seen."""
        if self.seen.total:
            return self.seen.prompt - self.seen.cached + 2 * self.seen.completion
        return self.parsed.prompt_tokens if self._attempts else 0

    async def __aenter__(self) -> Self:
        self._metering.metrics.in_flight.inc()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metering.metrics.in_flight.dec()
        if self._is_handed_over:
            return
        if self._settled is None:
            outcome, status = _ending(error)
            await self._close(self._event(outcome, status, self._flag(Flag.DELIVERED)))
        self._metering.ended(self.settled, error, is_known=self.model is not None)

    def hand_over(self) -> None:
        """Leave the event to the job that this request became: it is closed under the same id when the job ends."""
        self._is_handed_over = True

    def check(self) -> None:
        """Raise Refused if this request, were it dispatched now, could not be recorded."""
        try:
            self._metering.spool.check()
        except StoreUnavailable as error:
            raise _unrecordable(error) from error

    def dispatch(self, worker: WorkerView) -> str:
        """Note that *worker* is about to get the request; gives the id it sees. Raises Refused without a spool."""
        self._attempts += 1
        self._worker = worker.id
        assert self.request is not None, "a request is parsed before it is dispatched"
        if self._attempts == 1:
            self._tracker = UsageTracker(self.request.n, self.request.body, self.request.prompts)
            try:
                self._opened = self._metering.spool.open(
                    self._event(Outcome.INTERRUPTED, Outcome.INTERRUPTED.status, Flag.INTERRUPTED)
                )
            except StoreUnavailable as error:
                self._attempts, self._worker = 0, ""  # no worker sees it: a note will do, which spares the disk
                raise _unrecordable(error) from error
        return self._call.id

    def carry_on(self, failed: str, made: int, kept: int) -> None:
        """Note that worker *failed* broke off after *made* tokens of the answer, and another went on at *kept*."""
        prompt = self.seen.prompt + self._carried
        self._parts.append(Part(failed, self._metering.now_ms(), prompt, made - self._carried))
        self._carried, self._dropped = kept, self._dropped + made - kept

    def hear_from(self, worker: str) -> None:
        """Note that of those that got it *worker* is the one that answers, or the last to have said anything."""
        self._worker = worker

    async def opened(self) -> None:
        """Return once it is durable that this request was dispatched; nothing may be delivered before."""
        assert self._opened is not None, "a request is dispatched before anything is delivered"
        try:
            await self._opened
        except StoreUnavailable as error:
            raise _unrecordable(error) from error

    def observe(self, frames: bytes) -> None:
        """Take frames that arrived from the engine."""
        assert self._tracker is not None, "frames come after a dispatch"
        if self._first_byte_ms is None:
            self._first_byte_ms = self._metering.now_ms()
        self.seen = self._tracker.feed(frames)

    def deliver(self) -> None:
        """Note that all frames observed so far were accepted for sending to the client."""
        self.delivered = self.seen
        rules, now_ms = self._metering.rules, self._metering.now_ms()
        tokens = self.delivered.completion
        if (
            tokens - self._progress_tokens >= rules.progress_tokens
            or now_ms - self._progress_ms >= rules.progress_s * 1000
        ):
            self._progress_tokens, self._progress_ms = tokens, now_ms
            self._metering.spool.progress(self._call.id, self.delivered)
            if self.on_progress is not None:
                self.on_progress(self.delivered)

    def receive(self, status: int, body: bytes) -> None:
        """Take a whole answer that arrived from the engine; one that refuses costs no tokens."""
        self._first_byte_ms = self._metering.now_ms()
        assert self._tracker is not None, "an answer comes after a dispatch"
        if status < 400:
            self.seen = self._tracker.take_answer(body)

    async def settle(self, status: int) -> None:
        """
        Close the record as completed, all of it delivered; returns when it is durable, so that the last byte may leave.

        An engine's 4xx closes as refused by the engine.
        """
        self.delivered = self.seen
        outcome = Outcome.COMPLETED if status < 400 else Outcome.ENGINE_REFUSED
        await self._close(self._event(outcome, status, self._flag(Flag.EXACT)))

    def _flag(self, rule: Flag) -> Flag:
        """Give the rule by which what was delivered was counted: *rule* where the engine said it."""
        if not self.delivered.total:
            return Flag.NONE
        return Flag.ESTIMATED if self._tracker is not None and self._tracker.is_estimated else rule

    async def _close(self, event: MeterEvent) -> None:
        self._settled = event
        if self.on_settled is not None:
            self.on_settled(event)
        if event.attempts == 0:
            self._metering.spool.note(event)
            return
        await self._metering.spool.close(event)

    def _event(self, outcome: Outcome, status: int, flag: Flag) -> MeterEvent:
        """
        Give the event as it stands. Images and audio are part of the prompt: they count once that was delivered.

        In an OPEN they stand from the beginning: whoever settles it has no other place to take them from.
        """
        call, caller, first_ms, request = self._call, self.caller, self._first_byte_ms, self.request
        has_prompt = self.delivered.prompt > 0 or flag is Flag.INTERRUPTED
        return MeterEvent(
            id=call.id,
            tenant=caller.tenant if caller else "",
            project=caller.project if caller else "",
            key=caller.key if caller else "",
            model=request.model if request else "",
            pool=self.model.pool if self.model else "",
            worker=self._worker,
            gateway=self._metering.rules.gateway,
            service_class=_service_class(caller, self.wishes),
            outcome=outcome.label,
            status=status,
            flag=flag.value,
            is_stream=request.is_stream if request else False,
            attempts=self._attempts,
            arrived_ms=call.arrived_ms,
            ended_ms=max(call.arrived_ms, self._metering.now_ms()),  # the clock may have been set back
            queue_ms=self.queue_ms,
            ttft_ms=None if first_ms is None else max(0, first_ms - call.arrived_ms),
            prompt_tokens=self.delivered.prompt,
            cached_tokens=self.delivered.cached,
            completion_tokens=self.delivered.completion,
            reasoning_tokens=self.delivered.reasoning,
            undelivered_tokens=max(0, self.seen.completion - self.delivered.completion) + self._dropped,
            price=self.price.id if self.price else "",
            choices=min(request.n // request.prompts, CHOICES_MAX) if request else 1,
            images=request.images if request and has_prompt else 0,
            audio_ms=request.audio_ms if request and has_prompt else 0,
            continued=len(self._parts),
            carried_tokens=self._carried,
            carried_by=parts_to_json(self._parts),
        )


def _unrecordable(error: StoreUnavailable) -> Refused:
    return Refused(Outcome.SPOOL_UNAVAILABLE, f"Usage cannot be recorded here now: {error}", retry_after_s=5)


def _service_class(caller: Caller | None, wishes: Wishes | None) -> str:
    """Give the class that the request had in line: what was wished, else what its caller may have."""
    if wishes:
        return wishes.service_class.label
    return caller.service_class.label if caller else ""


def _ending(error: BaseException | None) -> tuple[Outcome, int]:
    if isinstance(error, Refused):
        return error.outcome, error.outcome.status
    if isinstance(error, Exception) and not isinstance(error, ClientGone):
        return Outcome.BUG, Outcome.BUG.status
    # A cancelled task: the client left, or the gateway stops and hangs up on it.
    return Outcome.CLIENT_GONE, Outcome.CLIENT_GONE.status


def _log(event: MeterEvent, error: BaseException | None) -> None:
    log.info(
        "request",
        request_id=event.id,
        tenant=event.tenant,
        key=event.key,
        model=event.model,
        worker=event.worker,
        outcome=event.outcome,
        status=event.status,
        reason=str(error) if isinstance(error, Refused) else None,
        duration_ms=event.ended_ms - event.arrived_ms,
        queue_ms=event.queue_ms,
        ttft_ms=event.ttft_ms,
        attempts=event.attempts,
        continued=event.continued,
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
        completion_tokens=event.completion_tokens,
    )
