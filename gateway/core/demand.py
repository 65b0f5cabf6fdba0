"""What gateways tell one another of a pool's demand, and what they learnt of its workers."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """
    One gateway's part of a pool's demand: work in tokens, rates per second.

    *served_rate* is the work that was done for its requests; *is_scaled* says that a scaler follows what it decides.
    """

    arrival_rate: float = 0.0
    backlog_tokens: float = 0.0
    waiting: int = 0
    in_flight: int = 0
    served_rate: float = 0.0
    is_scaled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """
    What is known of a pool's workers: worth keeping when every gateway ends. None or 0 is not known.

    *rate_per_worker* is in tokens of work per second; *start_s* from a worker's first beat to its readiness, *lead_s*
    from asking for it to that beat; *seqs_each* are the places in its batch.
    """

    rate_per_worker: float | None = None
    start_s: float | None = None
    lead_s: float = 0.0
    seqs_each: float = 0.0


def together(shares: Iterable[Share]) -> Share:
    """Add shares up."""
    parts = list(shares)
    return Share(
        arrival_rate=sum(part.arrival_rate for part in parts),
        backlog_tokens=sum(part.backlog_tokens for part in parts),
        waiting=sum(part.waiting for part in parts),
        in_flight=sum(part.in_flight for part in parts),
        served_rate=sum(part.served_rate for part in parts),
        is_scaled=any(part.is_scaled for part in parts),
    )
