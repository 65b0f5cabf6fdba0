"""
The ledger's transaction: new events, rated, with all that follows from them, or nothing.

Replays and overlaps change nothing: only what the INSERT of the events found to be new is summed. All writers lock in
one order (events by id, lines, hours, days, budgets' counters), so none waits for one that waits for it.
"""

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from gateway.core.prices import PRICE_FIELDS, PriceVersion, price_from_row
from gateway.core.rating import Rated, rated
from gateway.core.usage import MeterEvent
from gateway.errors import StoreUnavailable
from gateway.ports.journal import Appended
from gateway.stores import sql_rollups
from gateway.stores.database import Database
from gateway.stores.schema import meter_events, prices
from gateway.stores.sql_budgets import BudgetBooks
from gateway.stores.sql_bulk import insert_rows
from gateway.stores.sql_partitions import Partitions

TEXT_CHARS_MAX = 512  # PostgreSQL indexes at most 2,704 bytes, and some texts are a client's

_EVENT_FIELDS = tuple(field.name for field in fields(MeterEvent))
_TEXT_FIELDS = tuple(field.name for field in fields(MeterEvent) if field.type is str)
_event_values = attrgetter(*_EVENT_FIELDS)
_event_texts = attrgetter(*_TEXT_FIELDS)
_NAMES = (*_EVENT_FIELDS, "tier", "cost_nano", "currency")
_MAY_WORK_NEXT_TIME = frozenset({"40001", "40P01"})  # a serialization failure, a deadlock


class Ledger:
    """Appends events. Blocking; safe for threads, and beside other gateways."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._partitions = Partitions(database)
        self._budgets = BudgetBooks(database)
        self._prices: dict[str, PriceVersion] = {}

    def __repr__(self) -> str:
        return f"<Ledger {len(self._prices)} prices known, {self._partitions!r}>"

    def append(self, events: Iterable[MeterEvent]) -> Appended:
        """Write events as `Journal.append` promises; of an id that comes twice, the first counts."""
        first: dict[str, MeterEvent] = {}
        for event in map(_storable, events):
            first.setdefault(event.id, event)
        ends = time.monotonic() + self._database.timeout_s
        while first:
            try:
                self._partitions.ensure(event.arrived_ms for event in first.values())
                return self._write([first[identity] for identity in sorted(first)])
            except StoreUnavailable as error:
                self._partitions.forget()
                if not _may_work_now(error) or time.monotonic() >= ends:
                    raise
        return Appended(0)

    def _write(self, events: Sequence[MeterEvent]) -> Appended:
        with self._database.writing() as connection:
            known = self._prices_of(connection, {event.price for event in events if event.price})
            new = _insert_new(connection, [rated(event, known.get(event.price)) for event in events])
            sql_rollups.add(connection, new)
            self._budgets.book(connection, new)
            return Appended(len(new), tuple(new))

    def _prices_of(self, connection: Connection, ids: Collection[str]) -> Mapping[str, PriceVersion]:
        """Give the versions with these ids, as far as there are any. One that an event names is immutable."""
        if missing := [identity for identity in ids if identity not in self._prices]:
            self._prices.update(read_prices(connection, missing))
        return self._prices


def read_prices(connection: Connection, ids: Collection[str]) -> Mapping[str, PriceVersion]:
    """Give the versions with these ids, as far as there are any."""
    query = select(*(prices.c[name] for name in PRICE_FIELDS)).where(prices.c.id.in_(ids))
    found = [price_from_row(**row) for row in connection.execute(query).mappings()]
    return {version.id: version for version in found}


def _insert_new(connection: Connection, events: Sequence[Rated]) -> list[Rated]:
    """Insert those that are not there yet, and give them."""
    if connection.dialect.name == "postgresql":
        ending = "ON CONFLICT DO NOTHING RETURNING id"
        inserted = insert_rows(connection, meter_events, _NAMES, [_row(each) for each in events], ending)
        ids = {row[0] for row in inserted}
        return [each for each in events if each.event.id in ids]
    there = _ids_in_sqlite(connection, [each.event.id for each in events])
    new = [each for each in events if each.event.id not in there]
    if new:
        insert_rows(connection, meter_events, _NAMES, [_row(each) for each in new], "")
    return new


def _ids_in_sqlite(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Find which of *ids* there are; the transaction has the only write lock, so they stay all there are."""
    query = text("SELECT id FROM meter_events WHERE id IN (SELECT value FROM json_each(:ids))")
    return set(connection.execute(query, {"ids": json.dumps(ids)}).scalars())


def _row(each: Rated) -> tuple[Any, ...]:
    return (*_event_values(each.event), sql_rollups.tier_of(each), each.cost_nano, each.currency)


def _may_work_now(error: StoreUnavailable) -> bool:
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) in _MAY_WORK_NEXT_TIME


def _storable(event: MeterEvent) -> MeterEvent:
    """Make all texts such that every database takes them: a client's words must not hold up everybody's events."""
    texts = _event_texts(event)
    joined = "".join(texts)
    if joined.isascii() and joined.isprintable() and len(joined) <= TEXT_CHARS_MAX:
        return event
    changed: dict[str, Any] = dict(zip(_TEXT_FIELDS, map(_storable_text, texts), strict=True))
    return replace(event, **changed)


def _storable_text(value: str) -> str:
    whole = value[:TEXT_CHARS_MAX].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return whole.encode("utf-8", "replace").decode()
