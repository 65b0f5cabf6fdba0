"""Which worker serves a request: filters, credit, then the least outstanding work."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

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
    model: str, work: int, prompt_tokens: int, workers: Sequence[WorkerView], tried: Collection[str] = ()
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
    maybe_free: list[WorkerView] = []
    suspects: list[WorkerView] = []
    seen = 0
    for worker in _able(model, workers, tried):
        if worker.is_suspect:
            suspects.append(worker)
            continue
        seen += 1
        if has_prefill_room(worker, prompt_tokens):
            if worker.free_seqs > 0:
                free.append(worker)
            elif worker.free_seqs == 0 and worker.told_in_flight:
                maybe_free.append(worker)
        if free and seen >= SAMPLE:
            break
    if not seen:
        if not suspects:
            raise _no_worker(model)
        free = [worker for worker in suspects if worker.free_seqs > 0 and has_prefill_room(worker, prompt_tokens)]
    return min(free or maybe_free, key=lambda worker: (load(worker, work), random.random()), default=None)  # noqa: S311


def slots(workers: Sequence[WorkerView]) -> int:
    """Count the requests that the ready ones among *workers* may have at once."""
    return sum(worker.credit_seqs for worker in workers if worker.state is WorkerState.READY)


def _able(model: str, workers: Sequence[WorkerView], tried: Collection[str]) -> Iterator[WorkerView]:
    """Give the workers that can serve *model* and are not in *tried*, all round from a random place on."""
    first = random.randrange(len(workers)) if workers else 0  # noqa: S311
    for place in range(first - len(workers), first):
        worker = workers[place]
        if can_serve(worker, model) and worker.id not in tried:
            yield worker


def _misgivings(worker: WorkerView) -> tuple[bool, bool]:
    return worker.is_suspect, worker.free_seqs <= 0


def _no_worker(model: str) -> Refused:
    message = f"No worker is ready to serve the model {model!r} at the moment. Retry in a few seconds."
    return Refused(Outcome.NO_WORKER, message, retry_after_s=5)
