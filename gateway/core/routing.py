"""Which worker serves a request: filters, then the least outstanding work."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.core.outcome import Outcome
from gateway.core.roster import WorkerState
from gateway.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """
    A worker as the router weighs it at one instant.

    *outstanding_tokens* and *in_flight* are this gateway's own, exact and current. *others_in_flight* is what the
    engine reported beyond our own at its last beat: other gateways' requests, about a second old.
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
    is_suspect: bool = False


def can_serve(worker: WorkerView, model: str) -> bool:
    """Tell whether *worker* is ready and has *model*."""
    return worker.state is WorkerState.READY and model in worker.models


def load(worker: WorkerView, work: int) -> float:
    """Estimate the tokens outstanding on *worker*; a request of another gateway is taken to be like the one at hand."""
    return worker.outstanding_tokens + worker.others_in_flight * work


def rank(model: str, work: int, workers: Sequence[WorkerView]) -> list[WorkerView]:
    """
    Order the workers that can serve a request of *work* tokens, best first; raise Refused(NO_WORKER) if there is none.

    A suspect worker and one whose batch is full come after the others; equal loads are drawn at random, so that several
    gateways with the same picture do not all choose the same worker.
    """
    able = [worker for worker in workers if can_serve(worker, model)]
    if not able:
        raise Refused(
            Outcome.NO_WORKER,
            f"No worker is ready to serve the model {model!r} at the moment. Retry in a few seconds.",
            retry_after_s=5,
        )
    return sorted(able, key=lambda worker: (*_misgivings(worker), load(worker, work), random.random()))  # noqa: S311


def _misgivings(worker: WorkerView) -> tuple[bool, bool]:
    return worker.is_suspect, worker.in_flight + worker.others_in_flight >= worker.max_seqs


def slots(workers: Sequence[WorkerView]) -> int:
    """Count the requests that the ready ones among *workers* take at once."""
    return sum(worker.max_seqs for worker in workers if worker.state is WorkerState.READY)
