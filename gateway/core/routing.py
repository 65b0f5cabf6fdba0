"""Workers as a router sees them: filters, credit, and the least outstanding work of those that may have a request."""

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import overload

from gateway.core.affinity import Ring
from gateway.core.outcome import Outcome
from gateway.core.roster import WorkerState
from gateway.errors import Refused

# Of a larger pool so many workers are weighed, from a random place on. The least loaded of even two is within
# O(log log n) of the best (Mitzenmacher, "The power of two choices", 2001).
SAMPLE = 32
SEARCHED_MAX = 8 * SAMPLE  # of those with a sequence to spare, when none has room for a prompt: some 100 µs
_DICE = random.Random()  # noqa: S311  several gateways with one picture must not all choose alike; no secret is drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """
    A worker as the router weighs it at one instant.

    *outstanding_tokens* and *in_flight* are this gateway's own, exact and current. *told_in_flight* is what other
    gateways told a fraction of a second ago; *others_in_flight* adds what the engine reported beyond all that.
    *prefill_tokens* are the prompt tokens sent to it, by any gateway, whose first token has not come back;
    *credit_seqs* and *credit_prefill_tokens* are the most it may have, *prefill_tokens_per_s* is how fast it has shown
    itself, 0 before it has (core/credit.py). One that *is_ejected* is suspect, too (core/health.py).
    """

    id: str
    pool: str
    models: frozenset[str]
    url: str
    state: WorkerState
    engine_key: str = field(default="", repr=False)
    max_seqs: int = 1
    max_model_len: int = 0  # 0: it did not tell
    kv_cache_usage: float = 0.0
    outstanding_tokens: int = 0
    in_flight: int = 0
    others_in_flight: int = 0
    told_in_flight: int = 0
    prefill_tokens: int = 0
    credit_seqs: int = 1
    credit_prefill_tokens: int = 1 << 30
    is_suspect: bool = False
    is_ejected: bool = False
    prefill_tokens_per_s: float = 0.0

    @property
    def requests(self) -> int:
        """How many requests it has, anybody's, as far as this gateway knows."""
        return self.in_flight + self.others_in_flight

    @property
    def slots(self) -> int:
        """Give its part of the pool's slots; of an ejected one it is what it still has, so that it takes no other's."""
        return min(self.credit_seqs, self.requests) if self.is_ejected else self.credit_seqs

    @property
    def free_seqs(self) -> int:
        """How many more sequences it may have; negative if it has too many."""
        return self.credit_seqs - self.in_flight - self.others_in_flight

    @property
    def prefill_room(self) -> int:
        """How many more prompt tokens it may have outstanding; negative if it has too many."""
        return self.credit_prefill_tokens - self.prefill_tokens


class _Heap:
    """Views in no order, with the place of each: what goes is replaced by the last one."""

    __slots__ = ("_places", "views")

    def __init__(self) -> None:
        self.views: list[WorkerView] = []
        self._places: dict[str, int] = {}

    def put(self, view: WorkerView) -> WorkerView | None:
        """Put *view* in; gives the one of the same worker that it replaces."""
        place = self._places.setdefault(view.id, len(self.views))
        if place == len(self.views):
            self.views.append(view)
            return None
        before, self.views[place] = self.views[place], view
        return before

    def drop(self, worker: str) -> WorkerView | None:
        """Take a worker out; gives its view, None if there was none."""
        place = self._places.pop(worker, None)
        if place is None:
            return None
        gone, last = self.views[place], self.views.pop()
        if gone is not last:
            self.views[place] = last
            self._places[last.id] = place
        return gone

    def get(self, worker: str) -> WorkerView | None:
        """Give the view of a worker, None if there is none."""
        place = self._places.get(worker)
        return None if place is None else self.views[place]

    def __contains__(self, worker: object) -> bool:
        return worker in self._places


class PoolViews(Sequence[WorkerView]):
    """
    A pool's workers, in no order; what changes one, finds those with room or counts the slots takes constant time.

    *free* are those of ready workers that have credit for at least one more sequence; *slots* is the credit of all
    ready ones together, *requests* what they have, and *ring* has them as homes of prompts.
    """

    __slots__ = ("_all", "_free", "requests", "ring", "slots")

    def __init__(self, views: Iterable[WorkerView] = ()) -> None:
        self._all = _Heap()
        self._free = _Heap()
        self.ring = Ring()
        self.slots = 0
        self.requests = 0
        for view in views:
            self.put(view)

    @property
    def free(self) -> Sequence[WorkerView]:
        return self._free.views

    def put(self, view: WorkerView) -> None:
        """Take in a worker's view, in the place of its last one."""
        self._count(self._all.put(view), view)
        if view.state is WorkerState.READY and view.free_seqs > 0:
            self._free.put(view)
        else:
            self._free.drop(view.id)

    def drop(self, worker: str) -> None:
        """Take a worker out; unknown ones are fine."""
        self._count(self._all.drop(worker), None)
        self._free.drop(worker)

    def get(self, worker: str) -> WorkerView | None:
        """Give the view of a worker, None if it is not here."""
        return self._all.get(worker)

    def _count(self, before: WorkerView | None, after: WorkerView | None) -> None:
        """Count what is ready anew; the ring changes only when somebody becomes ready or no longer is."""
        was = before if before and before.state is WorkerState.READY else None
        now = after if after and after.state is WorkerState.READY else None
        self.slots += (now.slots if now else 0) - (was.slots if was else 0)
        self.requests += (now.requests if now else 0) - (was.requests if was else 0)
        if now and not was:
            self.ring.put(now.id)
        elif was and not now:
            self.ring.drop(was.id)

    def __contains__(self, worker: object) -> bool:
        return worker in self._all

    @overload
    def __getitem__(self, place: int) -> WorkerView: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[WorkerView]: ...
    def __getitem__(self, place: int | slice) -> WorkerView | Sequence[WorkerView]:
        return self._all.views[place]

    def __iter__(self) -> Iterator[WorkerView]:
        return iter(self._all.views)

    def __len__(self) -> int:
        return len(self._all.views)


def can_serve(worker: WorkerView, model: str) -> bool:
    """Tell whether *worker* is ready and has *model*."""
    return worker.state is WorkerState.READY and model in worker.models


def has_prefill_room(worker: WorkerView, prompt_tokens: int) -> bool:
    """Tell whether *worker* may be sent the prompt. One beyond all credit goes to a worker that prefills nothing."""
    return prompt_tokens <= worker.prefill_room or not worker.prefill_tokens


def load(worker: WorkerView, work: int) -> float:
    """Estimate the tokens outstanding on *worker*; a request of another gateway is taken to be like the one at hand."""
    return worker.outstanding_tokens + worker.others_in_flight * work


def rank(model: str, work: int, workers: Sequence[WorkerView], tried: Collection[str] = ()) -> list[WorkerView]:
    """
    Order the workers that can serve a request of *work* tokens, best first; raise Refused(NO_WORKER) if there is none.

    A suspect worker and one that is out of credit come after the others; equal loads are drawn at random, so that
    several gateways with the same picture do not all choose the same worker. Of more than SAMPLE that can serve, as
    many are ranked; those in *tried* are left out.
    """
    known = list(islice(able(model, workers, tried), SAMPLE))
    if not known:
        raise _no_worker(model)
    return sorted(known, key=lambda worker: (*_misgivings(worker), load(worker, work), _DICE.random()))


def choose(
    model: str, work: int, prompt_tokens: int, pool: PoolViews, tried: Collection[str] = (), dice: random.Random = _DICE
) -> WorkerView | None:
    """Give the least loaded worker that may have a request now; None if each that can serve it is out of credit."""
    free = roomy(model, prompt_tokens, pool, tried, dice)
    if len(free) == 1:
        return free[0]
    return min(free, key=lambda worker: (load(worker, work), dice.random()), default=None)


def roomy(
    model: str,
    prompt_tokens: int,
    pool: PoolViews,
    tried: Collection[str] = (),
    dice: random.Random = _DICE,
    most: int = SAMPLE,
) -> list[WorkerView]:
    """
    List up to *most* workers that may have a request now, from a random place on.

    Who asks holds one of the pool's slots, of which there are no more than there is credit. So if no worker seems to
    have any, what another gateway told is out of date, and one that it shares may have one request too many: to wait
    for the news would leave a place in a batch empty, and a wrong guess costs one place in an engine's queue.

    Workers in *tried* are passed over, and suspect ones as long as another can serve. Raises Refused(NO_WORKER) if none
    is left that can serve at all.
    """
    free: list[WorkerView] = []
    for seen, worker in enumerate(able(model, pool.free, tried, dice)):
        if len(free) >= most or seen >= (SAMPLE if free else SEARCHED_MAX):
            break
        if not worker.is_suspect and has_prefill_room(worker, prompt_tokens):
            free.append(worker)
    return free or _second_choice(model, prompt_tokens, pool, tried, dice)


def _second_choice(
    model: str, prompt_tokens: int, pool: PoolViews, tried: Collection[str], dice: random.Random
) -> list[WorkerView]:
    """Give workers that may have room for all we know; if only suspects can serve, those that have."""
    known = list(islice(able(model, pool, tried, dice), SAMPLE))
    if not known:
        raise _no_worker(model)
    trusted = [worker for worker in known if not worker.is_suspect]
    if trusted:
        maybe_free = [worker for worker in trusted if worker.free_seqs == 0 and worker.told_in_flight]
    else:
        maybe_free = [worker for worker in known if worker.free_seqs > 0]
    return [worker for worker in maybe_free if has_prefill_room(worker, prompt_tokens)]


def slots(pool: PoolViews) -> int:
    """Count the requests that the ready workers of *pool* may have at once."""
    return pool.slots


def able(
    model: str, workers: Sequence[WorkerView], tried: Collection[str] = (), dice: random.Random = _DICE
) -> Iterator[WorkerView]:
    """Give the workers that can serve *model* and are not in *tried*, all round from a random place on."""
    first = int(dice.random() * len(workers))
    for place in range(first - len(workers), first):  # from the back on: below 0 it goes round
        worker = workers[place]
        if can_serve(worker, model) and worker.id not in tried:
            yield worker


def _misgivings(worker: WorkerView) -> tuple[bool, bool]:
    return worker.is_suspect, worker.free_seqs <= 0


def _no_worker(model: str) -> Refused:
    message = f"No worker is ready to serve the model {model!r} at the moment. Retry in a few seconds."
    return Refused(Outcome.NO_WORKER, message, retry_after_s=5)
