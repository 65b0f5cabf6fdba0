"""What is on the spool's disk and not yet in the Journal: bookkeeping per segment, no input or output of its own."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.core.usage import MeterEvent


@dataclass(slots=True)
class Segment:
    """
    One file. *pins* counts open requests that still need it, for their OPEN or their last PROGRESS.

    *closed* are its events on their way to the Journal; *spilled* of them were let go from memory, *oldest_ms* is when
    the first of those ended, and the file has to be read again.
    """

    number: int
    size: int = 0
    pins: int = 0
    closed: deque[MeterEvent] = field(default_factory=deque)
    spilled: int = 0
    oldest_ms: int = 0

    @property
    def unshipped(self) -> int:
        return self.spilled + len(self.closed)

    @property
    def unshipped_since_ms(self) -> int:
        return self.closed[0].ended_ms if self.closed else self.oldest_ms


class Backlog:
    """The segments of one spool, oldest first. At most about *memory_events_max* events are held in memory."""

    def __init__(self, memory_events_max: int) -> None:
        self._memory_events_max = memory_events_max
        self._segments: dict[int, Segment] = {}
        self._open: dict[str, tuple[int, int]] = {}  # event id: segment of its OPEN, of its last PROGRESS
        self._in_memory = 0
        self._current = 0
        self.size = 0

    def __repr__(self) -> str:
        return f"<Backlog [{len(self._open)} open, {self.events} unshipped, {len(self._segments)} segments]>"

    @property
    def events(self) -> int:
        """Closed events that are not known to be in the Journal."""
        return sum(segment.unshipped for segment in self._segments.values())

    @property
    def open_ids(self) -> frozenset[str]:
        """The requests whose CLOSE is not durable yet."""
        return frozenset(self._open)

    @property
    def is_settled(self) -> bool:
        """Whether nothing on disk is needed any more."""
        return not self._open and self.oldest() is None

    def oldest(self) -> Segment | None:
        """Give the first segment that has something to ship."""
        return next((segment for segment in self._segments.values() if segment.unshipped), None)

    def unshipped_of(self, key: str) -> list[MeterEvent]:
        """Give the events of *key* that are not known to be in the Journal, but for those let go from memory."""
        return [event for segment in self._segments.values() for event in segment.closed if event.key == key]

    def written(self, number: int, size: int) -> None:
        """Note that *size* bytes became durable in segment *number*; a higher number than before seals the last."""
        if number != self._current:
            self._seal_current()
            self._current = number
            self._segments[number] = Segment(number)
        self._segments[number].size += size
        self.size += size

    def opened(self, event_id: str) -> None:
        """Keep the current segment until the request is closed."""
        if event_id not in self._open:
            self._open[event_id] = (self._current, self._current)
            self._segments[self._current].pins += 1

    def progressed(self, event_id: str) -> None:
        """Keep the current segment, for the newest PROGRESS, rather than the one that had the PROGRESS before."""
        opened, progressed = self._open.get(event_id, (0, self._current))
        if progressed == self._current:
            return
        if progressed != opened:
            self._segments[progressed].pins -= 1
        self._segments[self._current].pins += 1
        self._open[event_id] = (opened, self._current)

    def closed(self, event: MeterEvent) -> None:
        """Let go of the request's segments and put its event in line for the Journal."""
        for number in set(self._open.pop(event.id, ())):
            self._segments[number].pins -= 1
        self._segments[self._current].closed.append(event)
        self._in_memory += 1

    def shipped(self, segment: Segment, count: int) -> None:
        """
        Drop the first *count* events of *segment*: they are in the Journal.

        If the segment was spilled while they were on their way, they will be read, and shipped, again: a mere replay.
        """
        if segment.spilled:
            return
        for _ in range(count):
            segment.closed.popleft()
        self._in_memory -= count

    def restore(self, segment: Segment, events: Sequence[MeterEvent]) -> None:
        """Put back what was read from a spilled segment's file; some of it may be in the Journal already."""
        segment.closed.extend(events)
        segment.spilled = 0
        self._in_memory += len(events)

    def take_deletable(self) -> list[int]:
        """Forget the segments that nobody needs and give their numbers, for their files to be deleted."""
        free = [s for s in self._segments.values() if s.number != self._current and not (s.pins or s.unshipped)]
        for segment in free:
            del self._segments[segment.number]
            self.size -= segment.size
        return [segment.number for segment in free]

    def _seal_current(self) -> None:
        segment = self._segments.get(self._current)
        if segment is None or not segment.closed or self._in_memory <= self._memory_events_max:
            return
        segment.oldest_ms = segment.closed[0].ended_ms
        segment.spilled = len(segment.closed)
        self._in_memory -= segment.spilled
        segment.closed.clear()
