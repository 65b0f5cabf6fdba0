"""
Requests that are open, as the database knows them, so that a host that is lost with its disk does not take its bills.

A row's lease is counted on a clock of the database's own, which runs only while gateways reach it: each pass of any
gateway moves it on by the time since the last pass, by CLOCK_STEP_MS_MAX at most. So neither an outage of the database,
in which nobody could renew, nor the step of any machine's clock lets a lease expire.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, delete, literal_column, select, update

from gateway.core.outcome import Outcome
from gateway.core.usage import MeterEvent, Usage
from gateway.stores.database import Database
from gateway.stores.schema import meter_events, open_clock, open_requests
from gateway.stores.spool_format import event_from_json, event_to_json
from gateway.stores.sql_bulk import insert_rows

CLOCK_STEP_MS_MAX = 15_000  # three passes of a gateway that is alone
_DATABASE_NOW_MS = {
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
_COLUMNS = ("id", "event", "usage", "at_ms", "gateway", "lease_until_ms")
_OR_UPDATE = "ON CONFLICT (id) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class OpenRow:
    """A request that is open: its OPEN, and the *usage* it had been given by *at_ms* (Unix time)."""

    event: MeterEvent
    usage: Usage
    at_ms: int


@dataclass(frozen=True, slots=True)
class LateClose:
    """An event that came after its request was settled without it, and how many tokens more it tells of."""

    event: MeterEvent
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int


class SqlOpenRequests:
    """
    The table of open requests. Blocking: call it from a thread. All raise StoreUnavailable within the time limit.

    *owner* is who renews the rows; they expire *lease_s* after the last time.
    """

    def __init__(self, database: Database, owner: str, *, lease_s: float) -> None:
        self._database = database
        self._owner = owner
        self._lease_ms = int(lease_s * 1000)

    def renew(self, rows: Sequence[OpenRow]) -> None:
        """Write *rows*, of a request one each, new or known, and begin their leases anew, in one transaction."""
        with self._database.writing() as connection:
            until_ms = self._advance(connection) + self._lease_ms
            insert_rows(connection, open_requests, _COLUMNS, [self._to_row(row, until_ms) for row in rows], _OR_UPDATE)

    def remove(self, event_ids: Sequence[str]) -> None:
        """Forget requests whose final event is in the Journal; to do it again changes nothing."""
        with self._database.writing() as connection:
            connection.execute(delete(open_requests).where(open_requests.c.id.in_(event_ids)))

    def expired(self, limit: int) -> list[OpenRow]:
        """Move the clock on and give at most *limit* requests, of any gateway, whose lease is over."""
        with self._database.reading() as connection:
            if connection.execute(select(open_requests.c.id).limit(1)).first() is None:
                return []
        query = select(open_requests).order_by(open_requests.c.lease_until_ms).limit(limit)
        with self._database.writing() as connection:
            now_ms = self._advance(connection)
            rows = connection.execute(query.where(open_requests.c.lease_until_ms <= now_ms)).mappings()
            return [_from_row(dict(row)) for row in rows]

    def late(self, events: Sequence[MeterEvent]) -> list[LateClose]:
        """Give those of *events* that the Journal has as interrupted although they ended otherwise."""
        ended = {event.id: event for event in events if event.outcome != Outcome.INTERRUPTED.label}
        columns = [meter_events.c[name] for name in ("id", *_TOKENS)]
        arrived = {event.arrived_ms for event in ended.values()}  # spares PostgreSQL the other partitions
        query = select(*columns).where(
            meter_events.c.id.in_(list(ended)),
            meter_events.c.arrived_ms.between(min(arrived, default=0), max(arrived, default=0)),
            meter_events.c.outcome == Outcome.INTERRUPTED.label,
        )
        with self._database.reading() as connection:
            settled = connection.execute(query).all() if ended else []
        return [_difference(ended[identity], tokens) for identity, *tokens in settled]

    def _advance(self, connection: Connection) -> int:
        """Move the leases' clock on and give it; its row stays locked until the transaction ends."""
        now = literal_column(_DATABASE_NOW_MS[self._database.dialect], Integer)
        row = connection.execute(select(open_clock.c.at_ms, open_clock.c.seen_ms, now).with_for_update()).one()
        at_ms, seen_ms, now_ms = map(int, row)
        at_ms += min(max(0, now_ms - seen_ms), CLOCK_STEP_MS_MAX)
        connection.execute(update(open_clock).values(at_ms=at_ms, seen_ms=now_ms))
        return at_ms

    def _to_row(self, row: OpenRow, until_ms: int) -> tuple[Any, ...]:
        event, usage = json.dumps(event_to_json(row.event)), row.usage
        tokens = json.dumps([usage.prompt, usage.completion, usage.cached, usage.reasoning])
        return row.event.id, event, tokens, row.at_ms, self._owner, until_ms


def _from_row(row: dict[str, Any]) -> OpenRow:
    return OpenRow(event_from_json(json.loads(row["event"])), Usage(*json.loads(row["usage"])), row["at_ms"])


def _difference(event: MeterEvent, settled: Sequence[int]) -> LateClose:
    tokens = zip(_TOKENS, settled, strict=True)
    return LateClose(event, **{name: getattr(event, name) - had for name, had in tokens})
