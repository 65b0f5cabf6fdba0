"""Which worker serves a request: filters, credit, then the least outstanding work."""

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import overload

from gateway.core.outcome import Outcome
from gateway.core.roster import WorkerState
from gateway.errors import Refused

# Of a larger pool so many workers are weighed, from a random place on. The least loaded of even two is within
# O(log log n) of the best (Mitzenmacher, "The power of two choices", 2001).
SAMPLE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """
    A worker as the router weighs it at one instant.

    *outstanding_tokens* and *in_flight* are this gateway's own, exact and current. *told_in_flight* is what other
    gateways told a fraction of a second ago; *others_in_flight* adds what the engine reported beyond all that.
    *prefill_tokens* are the prompt tokens sent to it, by any gateway, whose first token has not come back;
    *credit_seqs* and *credit_prefill_tokens* are the most it may have (core/credit.py).
    """

    id: str
    pool: str
    models: frozenset[str]
    url: str
    state: WorkerState
    engine_key: str = field(default="", repr=False)
    max_seqs: int = 1
    kv_cache_usage: float = 0.0
    outstanding_tokens: int = 0
    in_flight: int = 0
    others_in_flight: int = 0
    told_in_flight: int = 0
    prefill_tokens: int = 0
    credit_seqs: int = 1
    credit_prefill_tokens: int = 1 << 30
    is_suspect: bool = False

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

    def __contains__(self, worker: object) -> bool:
        return worker in self._places


class PoolViews(Sequence[WorkerView]):
    """
    A pool's workers, in no order; what changes one, finds those with room or counts the slots takes constant time.

    *free* are those of ready workers that have credit for at least one more sequence; *slots* is the credit of all
    ready ones together.
    """

    __slots__ = ("_all", "_free", "slots")

    def __init__(self, views: Iterable[WorkerView] = ()) -> None:
        self._all = _Heap()
        self._free = _Heap()
        self.slots = 0
        for view in views:
            self.put(view)

    @property
    def free(self) -> Sequence[WorkerView]:
        return self._free.views

    def put(self, view: WorkerView) -> None:
        """Take in a worker's view, in the place of its last one."""
        before = self._all.put(view)
        self.slots += _slots(view) - (_slots(before) if before else 0)
        if view.state is WorkerState.READY and view.free_seqs > 0:
            self._free.put(view)
        else:
            self._free.drop(view.id)

    def drop(self, worker: str) -> None:
        """Take a worker out; unknown ones are fine."""
        before = self._all.drop(worker)
        self.slots -= _slots(before) if before else 0
        self._free.drop(worker)

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


def _slots(view: WorkerView) -> int:
    return view.credit_seqs if view.state is WorkerState.READY else 0


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
    able = list(islice(_able(model, workers, tried), SAMPLE))
    if not able:
        raise _no_worker(model)
    return sorted(able, key=lambda worker: (*_misgivings(worker), load(worker, work), random.random()))  # noqa: S311


def choose(
    model: str, work: int, prompt_tokens: int, pool: PoolViews, tried: Collection[str] = ()
) -> WorkerView | None:
    """
    Give the least loaded worker that may have a request now; None if each that can serve it is out of credit.

    Who asks holds one of the pool's slots, of which there are no more than there is credit. So if no worker seems to
    have any, what another gateway told is out of date, and one that it shares may have one request too many: to wait
    for the news would leave a place in a batch empty, and a wrong guess costs one place in an engine's queue.

    Workers in *tried* are passed over, and suspect ones as long as another can serve. Raises Refused(NO_WORKER) if none
    is left that can serve at all.
    """
    free: list[WorkerView] = []
    for seen, worker in enumerate(_able(model, pool.free, tried)):
        if free and seen >= SAMPLE:
            break
        if not worker.is_suspect and has_prefill_room(worker, prompt_tokens):
            free.append(worker)
    free = free or _second_choice(model, prompt_tokens, pool, tried)
    if len(free) == 1:
        return free[0]
    return min(free, key=lambda worker: (load(worker, work), random.random()), default=None)  # noqa: S311


def _second_choice(model: str, prompt_tokens: int, pool: PoolViews, tried: Collection[str]) -> list[WorkerView]:
    """Give workers that may have room for all we know; if only suspects can serve, those that have."""
    able = list(islice(_able(model, pool, tried), SAMPLE))
    if not able:
        raise _no_worker(model)
    trusted = [worker for worker in able if not worker.is_suspect]
    if trusted:
        maybe_free = [worker for worker in trusted if worker.free_seqs == 0 and worker.told_in_flight]
    else:
        maybe_free = [worker for worker in able if worker.free_seqs > 0]
    return [worker for worker in maybe_free if has_prefill_room(worker, prompt_tokens)]


def slots(pool: PoolViews) -> int:
    """Count the requests that the ready workers of *pool* may have at once."""
    return pool.slots


def _able(model: str, workers: Sequence[WorkerView], tried: Collection[str]) -> Iterator[WorkerView]:
    """Give the workers that can serve *model* and are not in *tried*, all round from a random place on."""
    first = random.randrange(len(workers)) if workers else 0  # noqa: S311
    for place in range(first - len(workers), first):  # from the back on: below 0 it goes round
        worker = workers[place]
        if can_serve(worker, model) and worker.id not in tried:
            yield worker


def _misgivings(worker: WorkerView) -> tuple[bool, bool]:
    return worker.is_suspect, worker.free_seqs <= 0


def _no_worker(model: str) -> Refused:
    message = f"No worker is ready to serve the model {model!r} at the moment. Retry in a few seconds."
    return Refused(Outcome.NO_WORKER, message, retry_after_s=5)
