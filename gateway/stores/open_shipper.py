"""
Long requests, told to the database while they are open, and settled from there when their gateway is gone for good.

The spool outlives a gateway that dies; this outlives the loss of its disk. Then a request that is younger than some
seconds is lost, and of an older one what it delivered since the last pass.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from gateway.core.usage import MeterEvent
from gateway.stores.spool_open import OpenRequests
from gateway.stores.spool_recovery import settle
from gateway.stores.sql_open import LateClose, OpenRow, SqlOpenRequests

PASS_S_MAX = 5.0  # a third of what the leases' clock moves on in one step, so that it keeps time
RENEWALS = 4  # of a lease whose request delivers nothing, before the lease would be over

InThread = Callable[..., Awaitable[Any]]
Append = Callable[[Sequence[MeterEvent]], Awaitable[Any]]
log = structlog.get_logger()


class OpenShipper:
    """
    Keeps the table of open requests true for *requests*, those of this process, and settles what expired of others'.

    A request is in the table once it has been open for *after_s*. *late_closes* counts events that came after their
    request had been settled without them: they are never billed a second time. *expired* counts what was settled here.
    """

    def __init__(
        self, table: SqlOpenRequests, requests: OpenRequests, *, after_s: float, lease_s: float, batch: int = 1000
    ) -> None:
        self.requests = requests
        self.expired = 0
        self.late_closes = 0
        self._table = table
        self._pass_s = min(PASS_S_MAX, after_s / 2)
        self._after_s = after_s - self._pass_s
        self._renew_s = lease_s / RENEWALS
        self._batch = batch
        self._ships_at_s = 0.0
        self._settles_at_s = 0.0

    def __repr__(self) -> str:
        return f"<OpenShipper {self.requests!r} [{self.expired} expired, {self.late_closes} late closes]>"

    async def ship(self, in_thread: InThread) -> None:
        """Write what is new of the open requests, if it is time to."""
        now_s = time.monotonic()
        if now_s < self._ships_at_s:
            return
        due = self.requests.due(now_s, after_s=self._after_s, renew_s=self._renew_s)
        for start in range(0, len(due), self._batch):
            requests = due[start : start + self._batch]
            rows = [OpenRow(request.event, request.usage, request.at_ms) for request in requests]
            self.requests.sending(requests)
            await in_thread(self._table.renew, rows)
            self.requests.shipped([(request, row.usage) for request, row in zip(requests, rows, strict=True)], now_s)
        self._ships_at_s = now_s + self._pass_s

    async def forget(self, in_thread: InThread, events: Sequence[MeterEvent], *, are_ours: bool) -> None:
        """Take requests out of the table whose final events are in the Journal by now."""
        ids = self.requests.known(events) if are_ours else [event.id for event in events]
        if ids:
            await in_thread(self._table.remove, ids)
            self.requests.removed(ids)

    async def settle_expired(self, in_thread: InThread, append: Append) -> None:
        """Settle requests whose gateway did not renew them, at what they are known to have delivered."""
        if time.monotonic() < self._settles_at_s:
            return
        while rows := await in_thread(self._table.expired, self._batch):
            await append([settle(row.event, row.usage, row.at_ms) for row in rows])
            await in_thread(self._table.remove, [row.event.id for row in rows])
            self.expired += len(rows)
            log.warning("open_requests_expired", requests=len(rows), first=rows[0].event.id)
        self._settles_at_s = time.monotonic() + self._pass_s

    async def look_for_late(self, in_thread: InThread, replayed: Sequence[MeterEvent]) -> None:
        """Count and log those of *replayed* that the Journal has only as interrupted."""
        late: Sequence[LateClose] = await in_thread(self._table.late, replayed)
        self.late_closes += len(late)
        for close in late:
            log.warning(
                "late_close",
                request_id=close.event.id,
                tenant=close.event.tenant,
                unbilled_prompt_tokens=close.prompt_tokens,
                unbilled_cached_tokens=close.cached_tokens,
                unbilled_completion_tokens=close.completion_tokens,
                unbilled_reasoning_tokens=close.reasoning_tokens,
            )
