"""What a running gateway shows of itself: how each part is doing for /readyz, and gauges for /metrics."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from gateway.core.hedging import Hedges
from gateway.core.retry_budget import RetryBudgets
from gateway.errors import StoreUnavailable
from gateway.finance.residue_watch import ResidueWatch
from gateway.ports.queue import Occupancy
from gateway.ports.roster import Roster
from gateway.serve.admission import Admission
from gateway.serve.health import Component
from gateway.serve.lane import JobLane
from gateway.serve.placement import Placement
from gateway.serve.scale import ScaleDesk
from gateway.stores.degraded import FallbackQueue
from gateway.stores.directory import DirectoryFollower
from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from gateway.stores.spool_metrics import watch_spool
from gateway.telemetry.metrics import Metrics

# Over all gateways: metric, what it tells, and which figure of a pool's demand it is.
_SCALE = (
    ("sluice_pool_desired_workers", "Workers that there should be.", "desired"),
    ("sluice_pool_running_workers", "Workers that are ready or starting.", "running"),
    ("sluice_pool_backlog_seconds", "What waits, over what the ready workers do.", "backlog_s"),
    ("sluice_pool_backlog_tokens", "Predicted work that waits.", "backlog_tokens"),
    ("sluice_pool_arrival_tokens_per_second", "Predicted work that arrives.", "arrival_rate"),
    ("sluice_pool_worker_tokens_per_second", "Work of one busy worker, as learnt.", "per_worker"),
)

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Vitals:
    """
    The parts of a gateway that are looked at. *are_holds_shared* is None where there is no Redis to share through.

    Everything is read from memory but the occupancy of lines, which `read_occupancy` asks of the queues now and then.
    """

    metrics: Metrics
    roster: Roster
    admission: Admission
    placement: Placement
    retries: RetryBudgets
    hedges: Hedges
    lane: JobLane
    directory: DirectoryFollower
    spool: FileSpool
    shipper: Shipper
    residue: ResidueWatch
    scale: ScaleDesk
    are_holds_shared: Callable[[], float] | None
    _occupancy: dict[str, Occupancy] = field(default_factory=dict)

    def components(self) -> dict[str, Component]:
        """Say how each part is doing, for /readyz."""
        version = self.directory.snapshot.version
        parts = {
            "spool": self._spool_component(),
            "database": Component(self.shipper.is_shipping and self.directory.is_fresh, False, {}),
            "directory": Component(version > 0, True, {"version": version}),
            "workers": self._workers_component(),
            "serving": Component(not self.admission.drain.is_announced, True, {}),
        }
        if self.are_holds_shared is not None:
            parts["redis"] = Component(not self._is_degraded(), False, {})
        return parts

    def _workers_component(self) -> Component:
        beats = self.roster.beats()
        ready = sum(beat.state.value == "ready" for beat in beats)
        return Component(ready > 0, False, {"ready": ready, "known": len(beats)})

    def _spool_component(self) -> Component:
        detail = {
            "state": self.spool.state.value,
            "backlog_events": self.shipper.backlog_events,
            "backlog_age_s": round(self.shipper.backlog_age_s, 1),
            "disk_free_bytes": self.spool.disk_free_bytes,
            "quarantined_segments": self.shipper.quarantined_segments,
        }
        return Component(self.spool.is_writable, True, detail)

    def _is_degraded(self) -> bool:
        queues = self.admission.queues.values()
        return any(isinstance(queue, FallbackQueue) and queue.is_degraded for queue in queues)

    def watch(self) -> None:
        """Show everything as gauges, read at each scrape."""
        watch_spool(self.metrics, self.spool, self.shipper)
        watch = self.metrics.watch
        watch("sluice_queue_waiting_requests", "Waiting, all gateways.", "pool", lambda: self._occupied("waiting"))
        watch(
            "sluice_queue_in_flight_requests", "In flight, all gateways.", "pool", lambda: self._occupied("in_flight")
        )
        watch("sluice_queue_slots", "Slots of the ready workers.", "pool", lambda: self._occupied("slots"))
        watch("sluice_database_up", "1 if SQL answers.", None, lambda: {"": self.components()["database"].is_ok})
        watch("sluice_reconcile_residue_tokens", "Tokens nothing explains.", "worker", self.residue.tokens)
        watch("sluice_reconcile_residue_ratio", "Their part of the engine's.", "worker", self.residue.ratios)
        watch("sluice_jobs_waiting", "Jobs that nobody runs yet, all gateways.", "pool", self.lane.waiting)
        watch("sluice_workers_ready", "Ready workers.", "pool", self._ready_workers)
        self.metrics.watch_workers(self.roster.figures)
        self.metrics.watch_counts(
            "sluice_retries_refused", "Retries beyond the pool's budget.", "pool", self.retries.refused
        )
        for name, text, counts in (
            ("sluice_hedges_won", "Late streams that a second worker answered.", self.hedges.won),
            ("sluice_hedges_lost", "Late streams that their first worker answered after all.", self.hedges.lost),
        ):
            self.metrics.watch_counts(name, text, "pool", partial(dict, counts))
        watch("sluice_placement_waiting_requests", "With a slot, without a worker.", "pool", self.placement.waiting)
        for name, text, of in _SCALE:
            watch(name, text, "pool", partial(self.scale.figures, of))
        if (are_shared := self.are_holds_shared) is not None:
            watch("sluice_holds_up", "1 if limits and budgets are shared.", None, lambda: {"": are_shared()})
            watch("sluice_redis_up", "1 if Redis answers.", None, lambda: {"": not self._is_degraded()})

    async def read_occupancy(self) -> None:
        """Ask each pool's line how full it is. Raises nothing for a store that is away."""
        for pool, queue in list(self.admission.queues.items()):
            try:
                self._occupancy[pool] = await queue.occupancy()
            except StoreUnavailable as error:
                log.warning("occupancy_unknown", pool=pool, reason=str(error))

    def _occupied(self, what: str) -> dict[str, float]:
        return {pool: getattr(occupancy, what) for pool, occupancy in self._occupancy.items()}

    def _ready_workers(self) -> dict[str, float]:
        ready: dict[str, float] = {}
        for beat in self.roster.beats():
            ready[beat.pool] = ready.get(beat.pool, 0) + (beat.state.value == "ready")
        return ready
