"""
The requests of this process that are open: which of them the database should know, in case this host is lost.

Bookkeeping without input or output of its own; times are monotonic seconds, given by the caller.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gateway.core.usage import MeterEvent, Usage


@dataclass(slots=True)
class OpenRequest:
    """
    One request: its OPEN, what it has delivered by *at_ms* (Unix time), what of that the database has.

    Until its OPEN *is_durable* the database is not told of it. Whoever finds this host's disk has it end there too; one
    that the disk never had would be nobody's to end if its gateway died, and be open there until its lease is over.
    """

    event: MeterEvent
    opened_s: float
    at_ms: int
    usage: Usage = field(default_factory=Usage)
    shipped: Usage | None = None
    shipped_s: float = 0.0
    is_durable: bool = False


class OpenRequests:
    """All of them, oldest first. `len` is how many are open."""

    def __init__(self) -> None:
        self._open: dict[str, OpenRequest] = {}
        self._in_database: set[str] = set()

    def __repr__(self) -> str:
        return f"<OpenRequests [{len(self)} open, {self.shipped_count} in the database]>"

    def __len__(self) -> int:
        return len(self._open)

    @property
    def shipped_count(self) -> int:
        """How many of this process the database may have, those included whose CLOSE is on its way."""
        return len(self._in_database)

    def opened(self, event: MeterEvent, at_ms: int, now_s: float) -> None:
        """Note that the request of *event* was dispatched."""
        self._open.setdefault(event.id, OpenRequest(event, now_s, at_ms))

    def kept(self, event_id: str) -> None:
        """Note that its OPEN is on this host's disk."""
        if event_id in self._open:
            self._open[event_id].is_durable = True

    def progressed(self, event_id: str, usage: Usage, at_ms: int) -> None:
        """Note what it has delivered; the largest counts."""
        request = self._open.get(event_id)
        if request is not None and usage.completion >= request.usage.completion:
            request.usage, request.at_ms = usage, max(request.at_ms, at_ms)

    def closed(self, event_id: str) -> None:
        """Note that it has ended; the database still knows it, until its CLOSE has arrived there."""
        self._open.pop(event_id, None)

    def due(self, now_s: float, *, after_s: float, renew_s: float) -> list[OpenRequest]:
        """Give those open for *after_s* that the database does not know as they are, or for longer than *renew_s*."""
        found = []
        for request in self._open.values():
            if now_s - request.opened_s < after_s:
                break  # the others came later
            is_new = request.shipped != request.usage or now_s - request.shipped_s >= renew_s
            if is_new and request.is_durable:
                found.append(request)
        return found

    def sending(self, requests: Iterable[OpenRequest]) -> None:
        """Note that the database may have *requests* from now on, even if it never says that it took them."""
        self._in_database.update(request.event.id for request in requests)

    def shipped(self, requests: Sequence[tuple[OpenRequest, Usage]], now_s: float) -> None:
        """Note that the database has *requests*, each with the usage that stands beside it."""
        for request, usage in requests:
            request.shipped, request.shipped_s = usage, now_s

    def known(self, events: Iterable[MeterEvent]) -> list[str]:
        """Give the ids among *events* that the database may hold as open."""
        return [event.id for event in events if event.id in self._in_database]

    def removed(self, event_ids: Iterable[str]) -> None:
        """Note that the database no longer holds these as open."""
        self._in_database.difference_update(event_ids)
