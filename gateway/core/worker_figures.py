"""What one gateway has to show of a worker: in metrics, to operators, on a screen."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.health import HealthState, WorkerFault
from gateway.core.roster import WorkerState


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
