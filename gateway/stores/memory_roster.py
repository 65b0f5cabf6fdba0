"""The roster of one gateway: the workers whose beats it knows, and its own work on each."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import structlog

from gateway.core.credit import CreditMode, WorkerCredit
from gateway.core.engine_load import EngineLoad
from gateway.core.health import DEFAULT_RULES, HealthRules, HealthState, PoolHealth, WorkerFault, WorkerHealth
from gateway.core.orders import Order, Ordered, Standing, state_under
from gateway.core.roster import Beat, WorkerState
from gateway.core.routing import PoolViews, WorkerView
from gateway.core.worker_figures import WorkerFigures, figures_of
from gateway.stores.worker_orders import WorkerOrders
from gateway.stores.worker_work import Told, WorkerWork
from gateway.stores.working import MemoryWorking

log = structlog.get_logger()

_UNKNOWN = WorkerCredit(0)  # of a worker that is not listed: nothing is given to it
_NOBODY = PoolViews()
_WARM = frozenset({WorkerState.READY, WorkerState.CORDONED, WorkerState.DRAINING})


@dataclass(slots=True)
class _Entry:
    """What is known of a worker, until its lease ends."""

    beat: Beat
    ends_s: float
    credit: WorkerCredit
    health: WorkerHealth
    state: WorkerState  # what its beat says, or what its order makes of that …
    since_s: float  # … and since when
    models: frozenset[str] = frozenset()
    logged: HealthState = HealthState.TRUSTED

    def enter(self, state: WorkerState, now_s: float) -> None:
        """Be in *state*, since now if it is another one; one that has just started gets its credit by and by."""
        if state is not self.state:
            if state is WorkerState.READY and self.state not in _WARM:
                self.health.slow_start.begin(now_s)
            self.state, self.since_s = state, now_s

    def shown(self) -> Beat:
        """Give the last beat in the state that its order leaves it in."""
        return self.beat if self.state is self.beat.state else replace(self.beat, state=self.state)

    def is_same_engine(self, beat: Beat) -> bool:
        """Tell whether *beat* is of the engine whose credit this is."""
        mine = self.beat
        limits = (mine.max_seqs, mine.max_batched_tokens, mine.engine_started_ms)
        return limits == (beat.max_seqs, beat.max_batched_tokens, beat.engine_started_ms)


@dataclass(slots=True)
class _Page:
    """The views of one pool: made anew only for workers that changed, and looked through only when time is up."""

    health: PoolHealth
    views: PoolViews = field(default_factory=PoolViews)
    changed: set[str] = field(default_factory=set)
    due_s: float = inf  # no lease, suspicion or word of another gateway ends before


class MemoryRoster:
    """
    A Roster in memory. *clock* gives monotonic seconds.

    `views` is asked for with every request: it remakes the views of workers that changed since, and touches no other.
    *health* says when a worker is passed over.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        lease_s: float = 4.0,
        credit_mode: CreditMode = CreditMode.ADAPTIVE,
        health: HealthRules = DEFAULT_RULES,
    ) -> None:
        self.now_s = clock
        self.busy: set[str] = set()  # workers on which own work changed; whoever shares it takes them out
        self.has_news = asyncio.Event()  # something others should hear of soon: room on a worker that had none
        self._lease_s = lease_s
        self._rules = health
        self._credit_mode = credit_mode
        self.orders = WorkerOrders()
        self._entries: dict[str, _Entry] = {}
        self._work: dict[str, WorkerWork] = {}
        self._pages: dict[str, _Page] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._hearers: list[Callable[[str, int, str], None]] = []

    async def beat(self, beat: Beat) -> None:
        self.note(beat, self._lease_s)

    def note(self, beat: Beat, lease_s: float) -> None:
        """Take a beat that is good for *lease_s* from now on."""
        entry = self._entries.get(beat.worker)
        if entry and entry.beat.pool != beat.pool:
            self._strike(beat.worker)
            entry = None
        now_s = self.now_s()
        if entry is None or not entry.is_same_engine(beat):
            entry = self._entries[beat.worker] = self._enlist(beat, entry)
        entry.beat, entry.ends_s, entry.models = beat, now_s + lease_s, frozenset(beat.models)
        work = self._work.setdefault(beat.worker, WorkerWork())
        self._enter(entry)
        entry.credit.beat(now_s, beat)
        work.report(beat.running + beat.waiting)
        if work.requests or entry.credit.is_cut:
            self.busy.add(beat.worker)  # told again: what others know of it has a lease too
        self._change(beat.worker, min(entry.ends_s, entry.health.due_s(now_s)))

    def _enlist(self, beat: Beat, before: _Entry | None) -> _Entry:
        credit = WorkerCredit(beat.max_seqs, beat.max_batched_tokens, self._credit_mode)
        if before is None:
            health = self._page(beat.pool).health.join(beat.worker)
            return _Entry(beat, inf, credit, health, beat.state, self.now_s())
        if before.beat.engine_started_ms != beat.engine_started_ms:
            self._note_health(self._page(beat.pool).health.note_new_engine(beat.worker))
        return replace(before, credit=credit)

    def _enter(self, entry: _Entry) -> None:
        """Have a worker be in the state that its order makes of its last beat's."""
        worker, now_s = entry.beat.worker, self.now_s()
        entry.enter(state_under(self.orders.of(worker), entry.beat.state), now_s)
        health = self._page(entry.beat.pool).health
        self._note_health(health.note_ready(worker, now_s, is_ready=entry.state is WorkerState.READY))

    def extend(self, worker: str) -> None:
        """Renew the lease of a worker without a beat of it: there is no way to hear one."""
        entry = self._entries.get(worker)
        if entry:
            entry.ends_s = self.now_s() + self._lease_s

    async def forget(self, worker: str) -> None:
        self._strike(worker)
        self.orders.give(worker, Order.SERVE, self.now_s())

    def order(self, worker: str, order: Order) -> None:
        if self.orders.give(worker, order, self.now_s()):
            self.has_news.set()
            self._note_order(worker)

    def standing(self, worker: str) -> Standing:
        entry, work, order = self._entries.get(worker), self._work.get(worker), self.orders.of(worker)
        in_flight = work.known if work else 0
        return Standing(order, in_flight, self.now_s() - entry.since_s) if entry else Standing(order)

    def hear_order(self, worker: str, ordered: Ordered, left_s: float) -> None:
        """Take what another gateway says of a worker's order, which is kept *left_s* more."""
        if self.orders.hear(worker, ordered, self.now_s() + left_s):
            self._note_order(worker)

    def _note_order(self, worker: str) -> None:
        entry = self._entries.get(worker)
        if entry:
            self._enter(entry)
            self._change(worker)

    def views(self, pool: str) -> PoolViews:
        page = self._pages.get(pool)
        if page is None:
            return _NOBODY
        if self.now_s() >= page.due_s:
            self._look_through(page)
        if page.changed:
            for worker in page.changed:
                page.views.put(self._view(worker))
            page.changed.clear()
        return page.views

    def beats(self) -> Sequence[Beat]:
        now_s = self.now_s()
        beats = [entry.shown() for entry in self._entries.values() if entry.ends_s > now_s]
        if self.orders:
            self.orders.keep((beat.worker for beat in beats), now_s)
        return beats

    def working(self, worker: str, work: int, prompt_tokens: int = 0) -> MemoryWorking:
        return MemoryWorking(self, worker, work, prompt_tokens)

    def hear(self, worker: str, load: EngineLoad) -> None:
        if self.credit(worker).hear(self.now_s(), load):
            self.busy.add(worker)
            self.has_news.set()
            self._change(worker)

    def tell_sent(self, beginning: int, worker: str) -> None:
        """Nobody to tell."""

    def listen(self, listener: Callable[[str, int, str], None]) -> None:
        self._hearers.append(listener)

    def hear_sent(self, beginning: int, worker: str) -> None:
        """Take what another gateway told of a prompt that it sent *worker*."""
        entry = self._entries.get(worker)
        if entry:
            for listener in self._hearers:
                listener(entry.beat.pool, beginning, worker)

    def watch(self, listener: Callable[[str], None]) -> None:
        self._listeners.append(listener)

    def suspect(self, worker: str, fault: WorkerFault = WorkerFault.BROKEN) -> None:
        entry = self._entries.get(worker)
        if entry:
            self._note_health(self._page(entry.beat.pool).health.note_fault(worker, fault, self.now_s()))

    def trust(self, worker: str) -> None:
        entry = self._entries.get(worker)
        if entry:
            self._note_health(self._page(entry.beat.pool).health.note_answer(worker, self.now_s()))

    def note_first_token(self, worker: str, ttft_s: float) -> None:
        """Take a first token, seen *ttft_s* after its request was sent."""
        entry = self._entries.get(worker)
        if entry:
            health = self._page(entry.beat.pool).health
            self._note_health(health.note_first_token(worker, self.now_s(), ttft_s))

    def _note_health(self, changed: Iterable[str]) -> None:
        """Have the views of those whose health *changed* made anew; log who goes and who comes."""
        for worker in changed:
            entry = self._entries.get(worker)
            if entry is None:
                continue
            health = entry.health
            state = health.state if health.is_sidelined else HealthState.TRUSTED
            if entry.logged is not state:
                entry.logged = state
                log.warning("worker_health", worker=worker, health=state.value, reason=health.reason)
            self._change(worker, health.due_s(self.now_s()))

    def health(self, worker: str) -> WorkerHealth:
        """Give a listed worker's health; that of nobody for others."""
        entry = self._entries.get(worker)
        return entry.health if entry else WorkerHealth(self._rules)

    def figures(self) -> Sequence[WorkerFigures]:
        for pool in list(self._pages):
            self.views(pool)  # lets time have its way
        now_s = self.now_s()
        listed = [(worker, entry) for worker, entry in self._entries.items() if entry.ends_s > now_s]
        return [figures_of(self._view(worker), entry.health, now_s) for worker, entry in listed]

    def returning(self, within_s: float) -> Sequence[WorkerView]:
        now_s = self.now_s()
        names = [name for page in self._pages.values() for name in page.health.returning(now_s, within_s)]
        return [self._view(name) for name in names]

    def keep_ejected(self, worker: str, fault: WorkerFault) -> None:
        entry = self._entries.get(worker)
        if entry:
            self._note_health(self._page(entry.beat.pool).health.keep_ejected(worker, fault, self.now_s()))

    async def start(self) -> None:
        """Nothing to start: there is no one to share with."""

    async def aclose(self) -> None:
        """Nothing to stop."""

    def credit(self, worker: str) -> WorkerCredit:
        """Give a listed worker's credit; an empty one for others."""
        entry = self._entries.get(worker)
        return entry.credit if entry else _UNKNOWN

    def begin(self, worker: str, work: int, prompt_tokens: int) -> tuple[int, float]:
        """Count a request; gives the prefill tokens ahead of its first token, and when that is predicted."""
        self.count(worker, work, 1, prompt_tokens)
        known, credit = self._work[worker], self.credit(worker)
        credit.use(known.known + known.excess)
        ahead = known.prefill_tokens
        return ahead, credit.predicted_ttft_s(ahead)

    def count(self, worker: str, tokens: int, requests: int, prefill_tokens: int) -> None:
        """Add to this gateway's own work on a worker, or take from it."""
        work = self._work.get(worker)
        if work is None:
            work = self._work[worker] = WorkerWork()
        work.count(tokens, requests, prefill_tokens)
        self.busy.add(worker)
        if requests and work.known + work.excess + (requests < 0) >= self.credit(worker).seqs:
            self.has_news.set()
        self._change(worker, has_room=requests <= 0)
        if not work.requests and worker not in self._entries:
            del self._work[worker]

    def own(self, worker: str) -> tuple[int, int, int]:
        """Give this gateway's requests and outstanding prompt tokens on a worker, and the credit it would give it."""
        work, credit_seqs = self._work.get(worker), self.credit(worker).seqs
        return (work.requests, work.own_prefill_tokens, credit_seqs) if work else (0, 0, credit_seqs)

    def tell(self, worker: str, gateway: str, requests: int, prefill_tokens: int, credit_seqs: int) -> None:
        """Take what another gateway has outstanding on a worker and would give it; its word holds for a lease."""
        entry = self._entries.get(worker)
        if entry is None:
            return
        ends_s, work = self.now_s() + self._lease_s, self._work[worker]
        work.tell(gateway, Told(requests, prefill_tokens, credit_seqs, ends_s))
        entry.credit.use(work.known + work.excess)
        self._change(worker, ends_s)

    def _change(self, worker: str, until_s: float = inf, *, has_room: bool = True) -> None:
        """Have the view of *worker* made anew, and once more at *until_s*; tell who waits if it may have room."""
        entry = self._entries.get(worker)
        if entry is None:
            return
        page = self._page(entry.beat.pool)
        page.changed.add(worker)
        page.due_s = min(page.due_s, until_s)
        if has_room:
            for listener in self._listeners:
                listener(entry.beat.pool)

    def _page(self, pool: str) -> _Page:
        page = self._pages.get(pool)
        if page is None:
            page = self._pages[pool] = _Page(PoolHealth(self._rules))
        return page

    def _look_through(self, page: _Page) -> None:
        """Strike off whose lease has ended, clear what else has, and find out when to look again."""
        now_s, page.due_s = self.now_s(), inf
        for worker in {view.id for view in page.views} | page.changed:
            entry = self._entries[worker]
            if entry.ends_s <= now_s:
                self._strike(worker)
                continue
            page.due_s = min(page.due_s, entry.ends_s, self._expire_told(worker, now_s))
        self._note_health(page.health.look(now_s))
        page.due_s = min(page.due_s, page.health.due_s(now_s))

    def _expire_told(self, worker: str, now_s: float) -> float:
        work = self._work.get(worker)
        if work is None or not work.told:
            return inf
        told = len(work.told)
        ends_s = work.expire(now_s)
        if len(work.told) < told:
            self._change(worker)
        return ends_s

    def _strike(self, worker: str) -> None:
        entry = self._entries.pop(worker, None)
        if entry:
            page = self._pages[entry.beat.pool]
            page.changed.discard(worker)
            page.views.drop(worker)
            self._note_health(page.health.leave(worker, self.now_s()))
            if not (page.changed or page.views):
                del self._pages[entry.beat.pool]
            if not self._work[worker].requests:
                del self._work[worker]

    def _view(self, worker: str) -> WorkerView:
        entry, work = self._entries[worker], self._work[worker]
        beat, credit, health = entry.beat, entry.credit, entry.health
        credit_seqs, in_flight = work.credit_seqs(credit.seqs), work.requests + work.others
        return WorkerView(
            id=worker,
            pool=beat.pool,
            models=entry.models,
            url=beat.url,
            state=entry.state,
            engine_key=beat.engine_key,
            max_seqs=beat.max_seqs,
            max_model_len=beat.max_model_len,
            kv_cache_usage=beat.kv_cache_usage,
            outstanding_tokens=work.tokens,
            in_flight=work.requests,
            others_in_flight=work.others,
            told_in_flight=work.known - work.requests,
            prefill_tokens=work.prefill_tokens,
            credit_seqs=health.seqs(credit_seqs, in_flight, self.now_s()),
            credit_prefill_tokens=credit.prefill_tokens,
            prefill_tokens_per_s=credit.prefill_tokens_per_s,
            is_suspect=health.is_passed_over,
            is_ejected=health.state is HealthState.EJECTED,
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        sizes = Counter(entry.beat.pool for entry in self._entries.values())
        pools = ", ".join(f"{size} in {pool}" for pool, size in sizes.items())
        return f"<MemoryRoster [{pools or 'no workers'}]>"
