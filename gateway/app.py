"""
The composition root: the only file that names concrete stores.

A Gateway is all that one process runs: the data plane, the control and finance planes behind their prefixes, the spool
and its shipper, and the loops that keep rosters, queues and snapshots current.
"""

import asyncio
import secrets
import time
from functools import partial
from itertools import count

import structlog

from gateway.control.api import control_app
from gateway.control.money_api import MoneyDesk
from gateway.control.webhook_address import AddressRules
from gateway.core.credit import CreditMode
from gateway.core.directory import SERVICE_CLASSES
from gateway.core.liveness import dead_rules
from gateway.core.prediction import Predictor
from gateway.core.request import parse_chat
from gateway.core.routing import slots
from gateway.errors import StoreUnavailable
from gateway.finance.api import finance_app
from gateway.finance.live_usage import live_usage
from gateway.finance.residue import Alarm
from gateway.finance.residue_watch import ResidueWatch, WatchRules
from gateway.ports.queue import AdmissionQueue, Occupancy
from gateway.serve import chat
from gateway.serve.admission import Admission, WaitLimits
from gateway.serve.agents import Agents
from gateway.serve.alerts import Alerts
from gateway.serve.authn import Authn
from gateway.serve.edge import Edge
from gateway.serve.health import Component, Health
from gateway.serve.holds import Declared, Holding, HoldRules
from gateway.serve.jobs import Endpoint, JobRules
from gateway.serve.lane import JobLane, LaneRules, make_lane
from gateway.serve.metering import Metering, MeterRules
from gateway.serve.placement import Placement
from gateway.serve.plane import Plane
from gateway.serve.runner import RunnerRules
from gateway.serve.upstream import Upstream, UpstreamLimits
from gateway.serve.usage_api import UsageApi
from gateway.serve.waiting import Waiting, WaitingRules
from gateway.serve.webhooks import WebhookRules, Webhooks
from gateway.serve.wire import ConnectionPool
from gateway.settings import Settings
from gateway.stores.budget_feed import BudgetFeed, FedJournal
from gateway.stores.database import Database
from gateway.stores.degraded import FallbackQueue
from gateway.stores.directory import DirectoryFollower
from gateway.stores.memory import MemoryQueue
from gateway.stores.memory_holds import MemoryHolds
from gateway.stores.memory_roster import MemoryRoster
from gateway.stores.objects import FileObjects
from gateway.stores.open_shipper import OpenShipper
from gateway.stores.redis import RedisQueue
from gateway.stores.redis_client import connect
from gateway.stores.redis_holds import RedisHolds
from gateway.stores.redis_jobs import JobTimes, RedisJobs
from gateway.stores.redis_roster import RedisRoster
from gateway.stores.schema import check_schema
from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from gateway.stores.spool_metrics import watch_spool
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_alerts import SqlAlerts
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_open import SqlOpenRequests
from gateway.stores.sql_work import SqlWork
from gateway.telemetry.metrics import Metrics

HOUSEKEEPING_S = 0.25  # how often slots are counted anew and idle connections are swept
OCCUPANCY_ROUNDS = 4  # of housekeeping between two readings of occupancy: each is a call to Redis per pool

log = structlog.get_logger()


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Gateway:
    """
    One gateway process, put together from *settings*; `edge` is its ASGI app.

    To be made on the event loop it runs on. Raises InvalidInput for settings that cannot work.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # New at every start: what a killed process of the same gateway left behind is not ours.
        self._owner = f"{settings.gateway_id}-{secrets.token_hex(4)}"
        self._metrics = Metrics()
        self._redis = None
        if settings.redis_url:
            self._redis = connect(settings.redis_url)
        self._database = Database(settings.sql_url, timeout_s=settings.database_timeout_s)
        self._journal = SqlJournal(self._database)
        self._work = SqlWork(self._database)
        self._residue = ResidueWatch(self._work, self._engines, _residue_rules(settings), now_ms)
        self._directory = DirectoryFollower(
            SqlDirectory(self._database), settings.snapshot_path, poll_s=settings.directory_poll_s
        )
        self._roster = self._make_roster()
        self._spool = self._make_spool()
        unshipped_of = self._spool.backlog.unshipped_of
        self._usage = UsageApi(
            partial(live_usage, self._journal), self._journal.event, unshipped_of, settings.zone, now_ms
        )
        webhooks = Webhooks(WebhookRules(**settings.jobs.webhook_rules), now_ms, self._metrics.count_alert)
        alerts = SqlAlerts(self._database)
        self._alerts = Alerts(alerts, webhooks, self._directory, now_ms, self._metrics.count_alert)
        self._feed = BudgetFeed(SqlBudgets(self._database), self._directory, now_ms, self._alerts.look)
        self._shipper = self._make_shipper()
        self._connections = ConnectionPool(
            connect_timeout_s=settings.upstream.connect_timeout_s, keep_alive_s=settings.upstream.keep_alive_s
        )
        self._placement = Placement(self._roster, wait_s_max=settings.upstream.credit_wait_s)
        self._predictor = Predictor()
        self._holds = self._make_holds()
        self._admission = self._make_admission()
        rules = WaitingRules(settings.queue.headers_hold_s, settings.queue.keep_alive_s)
        self._waiting = Waiting(self._admission, self._metrics, now_ms, rules)
        self._occupancy: dict[str, Occupancy] = {}
        self._housekeeping: asyncio.Task[None] | None = None
        self._objects = FileObjects(settings.objects_dir, free_bytes_min=settings.jobs.free_bytes_min, now_ms=now_ms)
        self._drain_ends_s = 0.0
        plane = self._make_plane()
        self._lane = self._make_lane(plane)
        self._watch()
        self.edge = self._make_edge(plane)

    async def start(self) -> None:
        """Recover what an earlier process left, load the Directory, and begin the background work."""
        try:
            await asyncio.to_thread(check_schema, self._database)
        except StoreUnavailable as error:
            log.warning("starting_without_database", reason=str(error))
        await self._directory.start()
        for rule, flaw in dead_rules(self._directory.snapshot, now_ms()):
            log.warning("rule_is_dead", id=rule.id, scope=rule.scope, subject=rule.subject, flaw=flaw)
        await self._shipper.start()
        await self._roster.start()
        await self._holds.start()
        await self._feed.start(self._holds)
        await self._alerts.start()
        await self._waiting.start()
        await self._lane.start()
        self._residue.start()
        self._housekeeping = asyncio.create_task(self._keep_house(), name="housekeeping")

    def begin_drain(self) -> None:
        """Refuse new requests from now on; those under way go on."""
        self._admission.is_draining = True
        self._lane.begin_drain()
        self._drain_ends_s = time.monotonic() + self._settings.drain_s

    async def aclose(self) -> None:
        """Stop the background work in the reverse order; what cannot be shipped now stays in the spool."""
        if self._housekeeping:
            self._housekeeping.cancel()
            await asyncio.wait({self._housekeeping})
        await self._residue.aclose()
        self._usage.close()
        await self._lane.aclose(max(0.0, self._drain_ends_s - time.monotonic()))
        await self._waiting.aclose()
        self._objects.close()
        await self._admission.aclose()
        await self._roster.aclose()
        self._connections.close()
        await self._shipper.aclose()
        await self._feed.aclose()
        await self._alerts.aclose()
        await self._holds.aclose()
        await self._spool.aclose()
        await self._directory.aclose()
        if self._redis is not None:
            await self._redis.aclose()
        self._database.close()

    def _make_roster(self) -> MemoryRoster | RedisRoster:
        lease_s, suspect_s = self._settings.roster.lease_s, self._settings.upstream.suspect_s
        mode = CreditMode(self._settings.upstream.credit)
        if self._redis is None:
            return MemoryRoster(lease_s=lease_s, suspect_s=suspect_s, credit_mode=mode)
        refresh_s = self._settings.roster.refresh_s
        return RedisRoster(self._redis, lease_s=lease_s, suspect_s=suspect_s, refresh_s=refresh_s, credit_mode=mode)

    def _make_spool(self) -> FileSpool:
        spool = self._settings.spool
        return FileSpool(
            self._settings.spool_dir,
            self._settings.gateway_id,
            segment_bytes=spool.segment_bytes,
            bytes_max=spool.bytes_max,
            free_bytes_min=spool.free_bytes_min,
            commit_interval_ms=spool.commit_interval_ms,
            now_ms=now_ms,
        )

    def _make_shipper(self) -> Shipper:
        spool = self._settings.spool
        table = SqlOpenRequests(self._database, self._owner, lease_s=spool.open_lease_s)
        after_s, lease_s = spool.open_ship_after_s, spool.open_lease_s
        opens = OpenShipper(table, self._spool.requests, after_s=after_s, lease_s=lease_s, batch=spool.ship_batch)
        return Shipper(
            self._spool,
            FedJournal(self._journal, self._feed),
            opens,
            interval_s=spool.ship_interval_s,
            batch=spool.ship_batch,
            on_recovered=self._feed.forget,
        )

    def _make_holds(self) -> MemoryHolds | RedisHolds:
        owner, queue = self._spool.folder.name, self._settings.queue
        if self._redis is None:
            return MemoryHolds(owner, self._feed.read_bases, now_ms=now_ms)
        lease_s, timeout_s = queue.lease_s, queue.store_timeout_s
        return RedisHolds(
            self._redis, owner, self._feed.read_bases, lease_s=lease_s, store_timeout_s=timeout_s, now_ms=now_ms
        )

    def _make_queue(self, pool: str) -> AdmissionQueue:
        queue = self._settings.queue
        local = MemoryQueue(pool, waiting_max=queue.waiting_max, tenant_share=queue.tenant_share)
        if self._redis is None:
            return local
        shared = RedisQueue(
            self._redis,
            pool,
            owner=self._owner,
            waiting_max=queue.waiting_max,
            tenant_share=queue.tenant_share,
            lease_s=queue.lease_s,
            store_timeout_s=queue.store_timeout_s,
        )
        return FallbackQueue(shared, local)

    def _make_admission(self) -> Admission:
        queue = self._settings.queue
        waits, holds = queue.wait_s_max.model_dump(), queue.hold_s_max.model_dump()
        limits = WaitLimits(
            wait_s_max={known: waits[label] for label, known in SERVICE_CLASSES.items()},
            hold_s_max={known: holds[label] for label, known in SERVICE_CLASSES.items()},
        )
        return Admission(self._make_queue, self._roster, self._placement, self._predictor, limits, now_ms)

    def _make_plane(self) -> Plane:
        settings, upstream = self._settings, self._settings.upstream
        rules = MeterRules(settings.gateway_id, settings.spool.progress_tokens, settings.spool.progress_s)
        limits = UpstreamLimits(upstream.first_byte_timeout_s, upstream.idle_timeout_s, upstream.attempts_max)
        hold_rules = HoldRules(settings.budgets.max_tokens_default, settings.spool.progress_tokens)
        return Plane(
            metering=Metering(self._spool, self._metrics, now_ms, rules),
            authn=Authn(self._directory, now_ms),
            directory=self._directory,
            predictor=self._predictor,
            holds=Holding(self._holds, Declared(self._directory), hold_rules),
            waiting=self._waiting,
            admission=self._admission,
            upstream=Upstream(self._roster, self._connections, limits, self._metrics.count_worker_failure),
            shares_prefix_cache=settings.shares_prefix_cache,
        )

    def _make_lane(self, plane: Plane) -> JobLane:
        settings, jobs = self._settings, self._settings.jobs
        limits = JobRules(jobs.waiting_max, jobs.limit_s, jobs.result_kept_s)
        store = None
        if self._redis is not None:
            times = JobTimes(lease_s=jobs.lease_s, kept_s=limits.kept_s, known_s=limits.known_s)
            store = RedisJobs(self._redis, self._owner, times, store_timeout_s=settings.queue.store_timeout_s)
        runner = RunnerRules(jobs.concurrency, jobs.attempts_max, jobs.limit_s, jobs.lease_s)
        rules = LaneRules(limits, runner, WebhookRules(**jobs.webhook_rules))
        endpoints = {chat.PATH: Endpoint(parse_chat, chat.serve_chat)}
        return make_lane(store, self._objects, plane, endpoints, self._slots, rules)

    def _slots(self, pool: str) -> int:
        return slots(self._roster.views(pool))

    def _make_edge(self, plane: Plane) -> Edge:
        settings = self._settings
        agents = Agents(self._roster, settings.worker_token, settings.roster.lease_s, self._shipper.reading, now_ms)
        directory = SqlDirectory(self._database)
        desk = self._make_desk(directory, plane)
        planes = {
            "/admin/": control_app(directory, self._roster, settings.admin_token, now_ms, settings.zone, desk),
            "/finance/": finance_app(self._journal, self._work, settings.admin_token, settings.zone),
        }
        health = Health(self._components, self._metrics)
        return Edge(plane, self._lane.jobs, agents, self._usage, health, planes, now_ms, settings.body_bytes_max)

    def _make_desk(self, directory: SqlDirectory, plane: Plane) -> MoneyDesk:
        addresses = AddressRules(*self._settings.jobs.address_rules)
        budgets, zone, holds = SqlBudgets(self._database), self._settings.zone, plane.holds
        return MoneyDesk(directory, budgets, addresses, zone, now_ms, lambda of: holds.standings_of(of, now_ms()))

    def _components(self) -> dict[str, Component]:
        """Say how each part is doing, for /readyz. Reads memory only."""
        shipper, beats = self._shipper, self._roster.beats()
        ready = sum(beat.state.value == "ready" for beat in beats)
        spool = {
            "state": self._spool.state.value,
            "backlog_events": shipper.backlog_events,
            "backlog_age_s": round(shipper.backlog_age_s, 1),
            "disk_free_bytes": self._spool.disk_free_bytes,
            "quarantined_segments": shipper.quarantined_segments,
        }
        parts = {
            "spool": Component(self._spool.is_writable, True, spool),
            "database": Component(shipper.is_shipping and self._directory.is_fresh, False, {}),
            "directory": Component(
                self._directory.snapshot.version > 0, True, {"version": self._directory.snapshot.version}
            ),
            "workers": Component(ready > 0, False, {"ready": ready, "known": len(beats)}),
            "serving": Component(not self._admission.is_draining, True, {}),
        }
        if self._redis is not None:
            parts["redis"] = Component(not self._is_degraded(), False, {})
        return parts

    def _is_degraded(self) -> bool:
        queues = self._admission.queues.values()
        return any(isinstance(queue, FallbackQueue) and queue.is_degraded for queue in queues)

    def _watch(self) -> None:
        """Show as gauges what only this file can see."""
        watch_spool(self._metrics, self._spool, self._shipper)
        watch = self._metrics.watch
        watch("sluice_queue_waiting_requests", "Waiting, all gateways.", "pool", lambda: self._occupied("waiting"))
        watch(
            "sluice_queue_in_flight_requests", "In flight, all gateways.", "pool", lambda: self._occupied("in_flight")
        )
        watch("sluice_queue_slots", "Slots of the ready workers.", "pool", lambda: self._occupied("slots"))
        watch("sluice_database_up", "1 if SQL answers.", None, lambda: {"": self._components()["database"].is_ok})
        watch("sluice_reconcile_residue_tokens", "Tokens nothing explains.", "worker", self._residue.tokens)
        watch("sluice_reconcile_residue_ratio", "Their part of the engine's.", "worker", self._residue.ratios)
        watch("sluice_jobs_waiting", "Jobs that nobody runs yet, all gateways.", "pool", self._lane.waiting)
        watch("sluice_workers_ready", "Ready workers.", "pool", self._ready_workers)
        watch("sluice_worker_credit_seqs", "Sequences a worker may have in flight.", "worker", self._credit)
        watch("sluice_placement_waiting_requests", "With a slot, without a worker.", "pool", self._placement.waiting)
        if self._redis is not None:
            watch("sluice_holds_up", "1 if limits and budgets are shared.", None, lambda: {"": self._holds.is_up})
            watch("sluice_redis_up", "1 if Redis answers.", None, lambda: {"": not self._is_degraded()})

    def _occupied(self, what: str) -> dict[str, float]:
        return {pool: getattr(occupancy, what) for pool, occupancy in self._occupancy.items()}

    def _ready_workers(self) -> dict[str, float]:
        ready: dict[str, float] = {}
        for beat in self._roster.beats():
            ready[beat.pool] = ready.get(beat.pool, 0) + (beat.state.value == "ready")
        return ready

    def _engines(self) -> list[tuple[str, int]]:
        """List the engine processes that are known to run."""
        return [(beat.worker, beat.engine_started_ms) for beat in self._roster.beats() if beat.engine_started_ms]

    def _credit(self) -> dict[str, float]:
        pools = {beat.pool for beat in self._roster.beats()}
        return {view.id: view.credit_seqs for pool in pools for view in self._roster.views(pool)}

    async def _keep_house(self) -> None:
        loop = asyncio.get_running_loop()
        for turn in count():
            due = loop.time() + HOUSEKEEPING_S
            await asyncio.sleep(HOUSEKEEPING_S)
            self._metrics.loop_lag.set(max(0.0, loop.time() - due))
            try:
                self._connections.sweep()
                self._admission.resize()
                if turn % OCCUPANCY_ROUNDS == 0:
                    await self._read_occupancy()
            except Exception:  # a loop that everything else relies on must not end by one bad round
                log.exception("housekeeping_failed")

    async def _read_occupancy(self) -> None:
        for pool, queue in list(self._admission.queues.items()):
            try:
                self._occupancy[pool] = await queue.occupancy()
            except StoreUnavailable as error:
                log.warning("occupancy_unknown", pool=pool, reason=str(error))


def _residue_rules(settings: Settings) -> WatchRules:
    of = settings.reconcile
    return WatchRules(of.every_s, of.window_s, of.lag_s, Alarm(of.alarm_ratio, of.alarm_tokens))
