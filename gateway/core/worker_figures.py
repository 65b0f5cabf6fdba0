"""What one gateway has to show of a worker: in metrics, to operators, on a screen."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from gateway.core.health import HealthState, WorkerFault, WorkerHealth
from gateway.core.roster import WorkerState
from gateway.core.routing import WorkerView


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFigures:
    """
    A worker at one instant, as this gateway sees it; counts are this gateway's, since the worker was first listed.

    *health* ends by itself in *left_s* seconds, None if it does not; *reason* is for people. *ttft_s* is the sum of the
    times of *first_tokens*.
    """

    worker: str
    pool: str
    state: WorkerState
    health: HealthState
    reason: str
    left_s: float | None
    in_flight: int
    credit_seqs: int
    faults: Mapping[WorkerFault, int]
    ejections: int
    first_tokens: int
    ttft_s: float


def figures_of(view: WorkerView, health: WorkerHealth, now_s: float) -> WorkerFigures:
    """Put together what is to be shown of a worker now."""
    return WorkerFigures(
        worker=view.id,
        pool=view.pool,
        state=view.state,
        health=health.state,
        reason=health.reason,
        left_s=None if health.until_s == inf else max(0.0, health.until_s - now_s),
        in_flight=view.in_flight,
        credit_seqs=view.slots,
        faults=dict(health.faults),
        ejections=health.ejections,
        first_tokens=health.first_tokens,
        ttft_s=health.ttft_s,
    )
