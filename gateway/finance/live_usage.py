"""
The usage of one key as its owner sees it: live, and equal to finance's figures to the nano.

It is finance's own report over the Journal and what a gateway has not shipped yet. An event that arrives in the Journal
meanwhile must count neither twice nor not at all, without a lock and whatever the database promises of its snapshots:
what is in the Journal before the report is read is counted there; if one more of the others is there afterwards, the
report may hold it or not, and is read again.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from gateway.core.prices import PriceVersion
from gateway.core.rating import rated
from gateway.core.statement import UNRATED, UsageSum
from gateway.core.usage import MeterEvent
from gateway.errors import InvalidInput, StoreUnavailable
from gateway.finance.reports import UsageQuery, parse_groups, usage_report
from gateway.ports.journal import JournalReader

GROUPS = ("model", "class", "price", "day", "hour")  # of finance's groups those in which one key's requests differ
TRIES_MAX = 10  # each fails only if the shipper commits events of this very key while some milliseconds pass

_SUMMED = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "images", "audio_ms")
_ASKED_FOR = ("tenant", "project", "key", "model", "pool")


def live_usage(
    journal: JournalReader,
    key: str,
    from_ms: int,
    to_ms: int,
    zone: ZoneInfo,
    group_by: str,
    unshipped: Sequence[MeterEvent],
) -> dict[str, Any]:
    """
    Report the usage of *key* over [from_ms, to_ms), by arrival: the Journal's and that of its *unshipped* events.

    Blocking. Raises InvalidInput for a group that all requests of a key share, StoreUnavailable.
    """
    query = UsageQuery(from_ms=from_ms, to_ms=to_ms, zone=zone, group_by=parse_groups(group_by))
    for name in query.group_by:
        if name not in GROUPS:
            raise InvalidInput(f"One key's requests do not differ in {name!r}. Group by any of {', '.join(GROUPS)}.")
    shipped = journal.known([event.id for event in unshipped])
    for _ in range(TRIES_MAX):
        unshipped = [event for event in unshipped if event.id not in shipped]
        report = usage_report(_LiveJournal(journal, key, unshipped), query)
        shipped = journal.known([event.id for event in unshipped])
        if not shipped:
            return {**report.to_json(), "key": key, "unshipped_requests": len(unshipped)}
    raise StoreUnavailable("journal", "it took in events of this key faster than they could be read")


class _LiveJournal:
    """A JournalReader of one key, with events beside those of the Journal."""

    def __init__(self, journal: JournalReader, key: str, unshipped: Sequence[MeterEvent]) -> None:
        self._journal = journal
        self._key = key
        self._unshipped = unshipped
        self.prices_of = journal.prices_of
        self.knows_tenant = journal.knows_tenant
        self.known = journal.known
        self.event = journal.event

    def usage_of_parts(
        self,
        parts: Sequence[tuple[int, int]],
        by: Collection[str] = (),
        *,
        tenant: str | None = None,
        key: str | None = None,
    ) -> Sequence[Sequence[UsageSum]]:
        del key  # this is always its own
        prices = self.prices_of({event.price for event in self._unshipped if event.price})
        found = self._journal.usage_of_parts(parts, by, tenant=tenant, key=self._key)
        return [
            [*sums, *(_as_sum(event, by, prices) for event in self._unshipped if start <= event.arrived_ms < end)]
            for sums, (start, end) in zip(found, parts, strict=True)
        ]


def _as_sum(event: MeterEvent, by: Collection[str], prices: Mapping[str, PriceVersion]) -> UsageSum:
    """Give the sum over one event as the ledger will have it."""
    priced = rated(event, prices.get(event.price))
    named = {name: getattr(event, name) for name in _ASKED_FOR if name in by}
    if not event.pool and "model" in named:  # a model that there is not counts as no model
        named["model"] = ""
    return UsageSum(
        **named,
        **{name: getattr(event, name) for name in ("service_class", "outcome", "flag", "price", *_SUMMED)},
        tier=UNRATED if priced.cost_nano is None else priced.tier,
        requests=1,
        cost_nano=priced.cost_nano or 0,
    )
