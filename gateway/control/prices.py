"""
Changing the price book: what an import or a withdrawal would do, and doing it.

What is or was in force never changes: an event names the version of its arrival, and everybody must find it as it was.
So versions are added ahead of time, their ends moved only in the future, and only what is yet to come is taken back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from zoneinfo import ZoneInfo

from gateway.control.price_checks import check_entries
from gateway.control.price_currencies import check_currencies, purses
from gateway.control.price_entries import PriceEntry, write_moment
from gateway.core.directory import Model
from gateway.core.ids import time_sorted_id
from gateway.core.money import shown
from gateway.core.prices import PriceBook, PriceVersion
from gateway.errors import InvalidInput, NotFoundError
from gateway.ports.budgets import BudgetStore
from gateway.ports.directory import DirectoryStore

LEAD_MS = 60_000  # gateways hear of a price within a second, and their clocks differ by less than the rest of this
_FOREVER_MS = 2**63

Scope = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Permits:
    """What an import may do only when told to: begin in the past, leave gaps, price models that are yet to come."""

    backdate: bool = False
    gaps: bool = False
    unknown_models: bool = False


class Change(Enum):
    """What happens to a version; the label is permanent."""

    NEW = "new"
    CLOSED = "closed"  # it ends, or ends earlier, as another follows
    PROLONGED = "prolonged"  # it ends later, or no more, as what followed was taken back
    WITHDRAWN = "withdrawn"  # before it came into force
    UNCHANGED = "unchanged"  # the file says what the book says


@dataclass(frozen=True, slots=True)
class Step:
    """One version as it will be, and what happened to it."""

    change: Change
    version: PriceVersion


@dataclass(frozen=True, slots=True)
class PricePlan:
    """What would become of the book *seen*, step by step, in order of scope and time."""

    seen: Sequence[PriceVersion]
    steps: tuple[Step, ...]

    @property
    def writes(self) -> list[PriceVersion]:
        """The versions that are created or changed."""
        return [step.version for step in self.steps if step.change is not Change.UNCHANGED]

    @property
    def news(self) -> list[PriceVersion]:
        """The versions that are created."""
        return [step.version for step in self.steps if step.change is Change.NEW]

    @property
    def before(self) -> PriceBook:
        return PriceBook.of(self.seen)

    @property
    def after(self) -> PriceBook:
        return self.before.apply(self.writes)

    def counts(self) -> dict[str, int]:
        """Say how many versions each change befalls."""
        return {change.value: sum(step.change is change for step in self.steps) for change in Change}


@dataclass(frozen=True, slots=True)
class _Draft:
    """A version that will be in its scope; *to_ms* of it None: until the next one. *where* is said in messages."""

    where: str
    version: PriceVersion
    known: PriceVersion | None  # as the book has it
    is_named: bool  # by the file


class _Planner:
    """Plans changes of a book at an instant; dates in messages are those of *zone*."""

    def __init__(self, seen: Sequence[PriceVersion], now_ms: int, permits: Permits, zone: ZoneInfo) -> None:
        self._seen = seen
        self._scopes = PriceBook.of(seen).by_scope
        self._now_ms = now_ms
        self._permits = permits
        self._zone = zone

    def add(self, entries: Sequence[PriceEntry]) -> PricePlan:
        """Plan to take in *entries*."""
        scopes: dict[Scope, dict[int, PriceEntry]] = {}
        for entry in entries:
            same = scopes.setdefault(entry.scope, {}).setdefault(entry.from_ms, entry)
            if same is not entry:
                raise InvalidInput(f"{entry.where}: overlaps {same.where}: both start at the same time in one scope.")
        return self._plan(step for scope in sorted(scopes) for step in self._add(scope, scopes[scope]))

    def take_back(self, version: PriceVersion) -> PricePlan:
        """Plan to withdraw a version that is yet to come; the one before it goes on in its place."""
        drafts = [draft for draft in self._known(version.scope) if draft.known != version]
        withdrawn = Step(Change.WITHDRAWN, replace(version, is_withdrawn=True))
        return self._plan([*self._settle(drafts), withdrawn])

    def is_ahead(self, at_ms: int | None) -> bool:
        """Whether *at_ms* is far enough ahead for all gateways to know by then what is to happen."""
        return at_ms is None or at_ms >= self._now_ms + LEAD_MS

    def moment(self, at_ms: int) -> str:
        return write_moment(at_ms, self._zone)

    def _plan(self, steps: Iterable[Step]) -> PricePlan:
        return PricePlan(self._seen, tuple(sorted(steps, key=lambda step: (step.version.scope, step.version.from_ms))))

    def _known(self, scope: Scope) -> list[_Draft]:
        """Give what the book has in a scope; an end at which the next one starts goes without saying."""
        versions = self._scopes.get(scope, ())
        starts = {version.from_ms for version in versions}
        return [
            _Draft(f"version {each.id}", replace(each, to_ms=None if each.to_ms in starts else each.to_ms), each, False)
            for each in versions
        ]

    def _add(self, scope: Scope, entries: dict[int, PriceEntry]) -> list[Step]:
        drafts = {draft.version.from_ms: draft for draft in self._known(scope)}
        withdrawn = []
        for from_ms, entry in entries.items():
            old = drafts.get(from_ms)
            drafts[from_ms] = draft = self._draft(entry, old.known if old else None)
            if old and old.known and not draft.known:
                withdrawn.append(Step(Change.WITHDRAWN, replace(old.known, is_withdrawn=True)))
        return [*withdrawn, *self._settle([drafts[from_ms] for from_ms in sorted(drafts)])]

    def _draft(self, entry: PriceEntry, known: PriceVersion | None) -> _Draft:
        """Give what becomes of *entry*: a new version, or the one that is *known* for its scope and start."""
        if known and _agrees(entry, known):
            return _Draft(entry.where, replace(known, to_ms=entry.to_ms), known, True)
        if known and not self.is_ahead(known.from_ms):
            advice = "What is or was in force never changes: give a later `from`."
            raise InvalidInput(f"{entry.where}: differs from version {known.id}, which is or was in force. {advice}")
        if not self.is_ahead(entry.from_ms):
            self._check_backdated(entry)
        version = PriceVersion(
            id=time_sorted_id("price", self._now_ms),
            model=entry.model,
            pool=entry.pool,
            tenant=entry.tenant,
            from_ms=entry.from_ms,
            to_ms=entry.to_ms,
            currency=entry.currency,
            tiers=entry.tiers,
            batch_thousandths=entry.batch_thousandths,
        )
        return _Draft(entry.where, version, None, True)

    def _check_backdated(self, entry: PriceEntry) -> None:
        """Refuse a start that is not ahead, unless it was asked for and nothing was or is in force then."""
        starts, earliest = self.moment(entry.from_ms), self.moment(self._now_ms + LEAD_MS)
        for each in self._scopes.get(entry.scope, ()):
            if each.from_ms <= entry.from_ms < _end_of(each):
                message = f"{entry.where}: from {starts}: version {each.id} is in force then, and that never changes"
                raise InvalidInput(
                    f"{message}. New prices start a minute ahead or more: at {earliest} at the earliest."
                )
        if not self._permits.backdate:
            message = f"{entry.where}: from {starts} is not a minute ahead; the earliest start is {earliest}"
            advice = "Where there was no price, --backdate allows it; what is recorded already keeps what it has"
            raise InvalidInput(f"{message}. {advice}.")

    def _settle(self, drafts: Sequence[_Draft]) -> list[Step]:
        """Give every draft of a scope its end, and say what happens to it. Raises InvalidInput if they do not fit."""
        ended = [self._end(draft, after) for draft, after in pairwise([*drafts, None]) if draft]
        if odd := next((each for each in ended if each.version.currency != ended[0].version.currency), None):
            one, other = (odd, ended[0]) if odd.is_named else (ended[0], odd)
            currencies = f"{shown(one.version.currency)}, that of {other.where} {shown(other.version.currency)}"
            raise InvalidInput(f"{one.where}: currency is {currencies}. One scope has one currency for all time.")
        return [step for draft in ended if (step := self._step(draft))]

    def _end(self, draft: _Draft, after: _Draft | None) -> _Draft:
        """End *draft* where the one *after* it starts, unless it says itself where."""
        to_ms = draft.version.to_ms
        if after is None:
            return draft
        starts_ms = after.version.from_ms
        if to_ms is None:
            return replace(draft, version=replace(draft.version, to_ms=starts_ms))
        one, other = (draft, after) if draft.is_named else (after, draft)
        if to_ms > starts_ms:
            times = f"the later starts at {self.moment(starts_ms)}, the earlier lasts until {self.moment(to_ms)}"
            raise InvalidInput(f"{one.where}: overlaps {other.where}: {times}. Give that an earlier `to`, or none.")
        if to_ms < starts_ms and one.is_named and not self._permits.gaps:
            gap = f"from {self.moment(to_ms)} to {self.moment(starts_ms)}, beside {other.where}, its scope has no price"
            raise InvalidInput(f"{one.where}: {gap}. Leave `to` out, or allow it with --allow-gaps.")
        return draft

    def _step(self, draft: _Draft) -> Step | None:
        known, version = draft.known, draft.version
        if known is None:
            return Step(Change.NEW, version)
        if known.to_ms == version.to_ms:
            return Step(Change.UNCHANGED, known) if draft.is_named else None
        is_shorter = _end_of(version) < _end_of(known)
        if not self.is_ahead(min(_end_of(version), _end_of(known))):
            ends = " to ".join(
                "open" if to_ms is None else self.moment(to_ms) for to_ms in (known.to_ms, version.to_ms)
            )
            advice = "What is or was in force never changes, and ends move only if a minute ahead or more."
            raise InvalidInput(f"{draft.where}: the end of version {known.id} would move from {ends}. {advice}")
        return Step(Change.CLOSED if is_shorter else Change.PROLONGED, version)


def plan_import(
    store: DirectoryStore,
    entries: Sequence[PriceEntry],
    *,
    now_ms: int,
    permits: Permits,
    zone: ZoneInfo,
    coming: Iterable[Model] = (),
    ledger: BudgetStore | None = None,
) -> PricePlan:
    """
    Tell what importing *entries* would do; *coming* are models that would come with them.

    Raises InvalidInput naming the entry that cannot be, also for its currency: that of the budgets that it would meet,
    and of the balances in *ledger*.

    An entry that agrees with the book is left alone; one with other prices replaces a version that is yet to come.
    What the book has and *entries* do not name stays.
    """
    plan = _Planner(store.prices(), now_ms, permits, zone).add(entries)
    ids = {(version.scope, version.from_ms): version.id for version in plan.news}
    news = {ids[at]: entry for entry in entries if (at := (entry.scope, entry.from_ms)) in ids}
    check_entries(store, [*news.values()], allows_unknown_models=permits.unknown_models, coming=coming)
    where = {price_id: entry.where for price_id, entry in news.items()}
    check_currencies(plan.before, plan.after, purses(store, ledger), where, now_ms)
    return plan


def plan_withdrawal(
    store: DirectoryStore, price_id: str, *, now_ms: int, zone: ZoneInfo, ledger: BudgetStore | None = None
) -> PricePlan:
    """
    Tell what withdrawing a version would do; nothing if it is withdrawn already.

    Raises NotFoundError, and InvalidInput if it is or was in force, or will be within a minute, or if a tenant's
    budgets would then meet prices in another currency; *ledger* has the balances.
    """
    seen = store.prices()
    version = next((each for each in seen if each.id == price_id), None)
    if version is None:
        raise NotFoundError(f"There is no price version {shown(price_id)}. See `sluice prices history`.")
    planner = _Planner(seen, now_ms, Permits(), zone)
    if version.is_withdrawn:
        return PricePlan(seen, (Step(Change.UNCHANGED, version),))
    if not planner.is_ahead(version.from_ms):
        starts = planner.moment(version.from_ms)
        advice = "Import other prices with a later `from` instead."
        raise InvalidInput(f"Version {price_id} starts at {starts}: it is or was in force, or is about to be. {advice}")
    plan = planner.take_back(version)
    check_currencies(plan.before, plan.after, purses(store, ledger), {}, now_ms)
    return plan


def carry_out(store: DirectoryStore, plan: PricePlan) -> None:
    """Do what *plan* says, in one transaction. Raises AlreadyExists if somebody changed the book meanwhile."""
    if plan.writes:
        store.put_prices(plan.writes, seen=plan.seen)


def _agrees(entry: PriceEntry, known: PriceVersion) -> bool:
    said = (entry.currency, entry.batch_thousandths, entry.tiers)
    return said == (known.currency, known.batch_thousandths, known.tiers)


def _end_of(version: PriceVersion) -> int:
    return _FOREVER_MS if version.to_ms is None else version.to_ms
