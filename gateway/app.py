"""
The composition root: what one gateway is made of, in which order it starts, and in which it stops.

A Gateway is all that one process runs: the data plane, the control and finance planes behind their prefixes, the spool
and its shipper, and the loops that keep rosters, queues and snapshots current.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from functools import partial
from itertools import count

import structlog

from gateway.composition import (
    make_demand,
    make_holds,
    make_jobs,
    make_objects,
    make_queue,
    make_returns,
    make_roster,
    make_shipper,
    make_spool,
    now_ms,
    scale_rules,
)
from gateway.control.api import control_app
from gateway.control.money_api import MoneyDesk
from gateway.control.webhook_address import AddressRules
from gateway.core.directory import SERVICE_CLASSES, Snapshot
from gateway.core.hedging import HedgeRules, Hedges
from gateway.core.liveness import dead_rules
from gateway.core.prediction import Predictor
from gateway.core.request import parse_chat, parse_completion
from gateway.core.retry_budget import RetryBudgets, RetryRules
from gateway.core.routing import slots
from gateway.core.starts import Starts
from gateway.errors import StoreUnavailable
from gateway.finance.api import finance_app
from gateway.finance.live_usage import live_usage
from gateway.finance.residue import Alarm
from gateway.finance.residue_watch import ResidueWatch, WatchRules
from gateway.serve import chat, completions
from gateway.serve.admission import Admission
from gateway.serve.agents import Agents
from gateway.serve.alerts import Alerts
from gateway.serve.authn import Authn
from gateway.serve.class_limits import ClassLimits, WaitLimits
from gateway.serve.continuing import ContinuationRules
from gateway.serve.edge import Edge
from gateway.serve.explain import Explained
from gateway.serve.health import Health
from gateway.serve.holds import Declared, Holding, HoldRules
from gateway.serve.jobs import Endpoint, JobRules
from gateway.serve.knocking import Knocking
from gateway.serve.lane import JobLane, LaneRules, make_lane
from gateway.serve.metering import Metering, MeterRules
from gateway.serve.placement import Placement, PlacementRules
from gateway.serve.plane import Plane
from gateway.serve.runner import RunnerRules
from gateway.serve.scale import ScaleDesk
from gateway.serve.upstream import Upstream, UpstreamLimits
from gateway.serve.usage_api import UsageApi
from gateway.serve.waiting import Waiting, WaitingRules
from gateway.serve.webhooks import WebhookRules, Webhooks
from gateway.serve.wire import ConnectionPool
from gateway.serve.work_meter import WorkMeter
from gateway.settings import Settings
from gateway.stores.budget_feed import BudgetFeed
from gateway.stores.database import Database
from gateway.stores.directory import DirectoryFollower
from gateway.stores.redis_client import connect
from gateway.stores.schema import check_schema
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_alerts import SqlAlerts
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_work import SqlWork
from gateway.telemetry.metrics import Metrics
from gateway.vitals import Vitals

HOUSEKEEPING_S = 0.25  # how often slots are counted anew and idle connections are swept
OCCUPANCY_ROUNDS = 4  # of housekeeping between two readings of occupancy: each is a call to Redis per pool

log = structlog.get_logger()


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
        self._redis = connect(settings.redis_url) if settings.redis_url else None
        self._database = Database(settings.sql_url, timeout_s=settings.database_timeout_s)
        self._journal = SqlJournal(self._database)
        self._work = SqlWork(self._database)
        self._residue = ResidueWatch(self._work, self._engines, _residue_rules(settings), now_ms)
        self._directory = DirectoryFollower(
            SqlDirectory(self._database), settings.snapshot_path, poll_s=settings.directory_poll_s
        )
        self._roster = make_roster(settings, self._redis)
        self._spool = make_spool(settings)
        unshipped_of = self._spool.backlog.unshipped_of
        self._usage = UsageApi(
            partial(live_usage, self._journal), self._journal.event, unshipped_of, settings.zone, now_ms
        )
        webhooks = Webhooks(WebhookRules(**settings.jobs.webhook_rules), now_ms, self._metrics.count_alert)
        alerts = SqlAlerts(self._database)
        self._alerts = Alerts(alerts, webhooks, self._directory, now_ms, self._metrics.count_alert)
        self._feed = BudgetFeed(SqlBudgets(self._database), self._directory, now_ms, self._alerts.look)
        self._shipper = make_shipper(settings, self._spool, self._database, self._feed, self._owner)
        self._connections = ConnectionPool(
            connect_timeout_s=settings.upstream.connect_timeout_s,
            keep_alive_s=settings.upstream.keep_alive_s,
            connections_max=settings.upstream.connections_max,
            ca=settings.upstream.ca_file,
        )
        routing, metrics = PlacementRules(**settings.upstream.placement_rules), self._metrics
        self._explained = Explained(settings.gateway_id, routing.policy, now_ms)
        self._placement = Placement(self._roster, routing, self._explained, metrics.count_predicted_cache)
        self._knocking = Knocking(self._roster, self._connections, timeout_s=settings.upstream.connect_timeout_s)
        self._retries = RetryBudgets(RetryRules(settings.upstream.retry_share, settings.upstream.retries_min))
        self._predictor, self._hedges = Predictor(), Hedges(HedgeRules(**settings.upstream.hedge_rules))
        self._starts, self._meter = Starts(), WorkMeter(time.monotonic)
        self._scale = self._make_scale()
        self._holds = make_holds(settings, self._redis, self._spool.folder.name, self._feed)
        self._returns = make_returns(settings, self._redis, self._owner)
        self._admission = self._make_admission()
        rules = WaitingRules(settings.queue.headers_hold_s, settings.queue.keep_alive_s)
        self._waiting = Waiting(self._admission, self._metrics, now_ms, rules)
        self._housekeeping: asyncio.Task[None] | None = None
        self._objects = make_objects(settings)
        self._drain_ends_s = 0.0
        plane = self._make_plane()
        self._lane = self._make_lane(plane)
        self._vitals = self._make_vitals()
        self._vitals.watch()
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
        if self._returns is not None:
            await self._returns.start()
        await self._waiting.start()
        await self._knocking.start()
        await self._lane.start()
        self._residue.start()
        await self._scale.start()
        self._housekeeping = asyncio.create_task(self._keep_house(), name="housekeeping")

    def announce_drain(self) -> None:
        """Say by /readyz that this gateway goes, and hand back jobs that wait; requests are served as ever."""
        self._admission.drain.announce()
        self._lane.begin_drain()

    def begin_drain(self) -> None:
        """Let end what has begun, and send away to other gateways whoever's turn will not come in time."""
        self.announce_drain()
        self._admission.begin_drain(self._settings.drain_s)
        self._scale.let_go()
        self._drain_ends_s = time.monotonic() + self._settings.drain_s

    async def aclose(self) -> None:
        """Stop the background work in the reverse order; what cannot be shipped now stays in the spool."""
        if self._housekeeping:
            self._housekeeping.cancel()
            await asyncio.wait({self._housekeeping})
        await self._scale.aclose()
        await self._residue.aclose()
        self._usage.close()
        await self._lane.aclose(max(0.0, self._drain_ends_s - time.monotonic()))
        await self._waiting.aclose()
        await self._knocking.aclose()
        self._objects.close()
        await self._admission.aclose()
        if self._returns is not None:
            await self._returns.aclose()
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

    def _make_admission(self) -> Admission:
        queue = self._settings.queue
        waits, holds = queue.wait_s_max.model_dump(), queue.hold_s_max.model_dump()
        defaults = WaitLimits(
            wait_s_max={known: waits[label] for label, known in SERVICE_CLASSES.items()},
            hold_s_max={known: holds[label] for label, known in SERVICE_CLASSES.items()},
        )
        limits = ClassLimits(self._directory, defaults)
        queue_of = partial(make_queue, self._settings, self._redis, self._owner)
        parts = (self._roster, self._placement, self._predictor, limits, now_ms)
        return Admission(queue_of, *parts, self._starts, self._meter, self._returns)

    def _make_scale(self) -> ScaleDesk:
        board, directory = make_demand(self._settings, self._redis, self._owner), self._directory
        rules_of = lambda pool: scale_rules(self._settings, directory.snapshot.pools.get(pool))  # noqa: E731
        return ScaleDesk(self._meter, board, self._roster, self._starts, rules_of, lambda: _pools(directory.snapshot))

    def _make_plane(self) -> Plane:
        settings, upstream = self._settings, self._settings.upstream
        rules = MeterRules(settings.gateway_id, settings.spool.progress_tokens, settings.spool.progress_s)
        limits = UpstreamLimits(
            upstream.header_timeout_s,
            upstream.first_byte_timeout_s,
            upstream.idle_timeout_s,
            upstream.attempts_max,
            ContinuationRules(upstream.continuations_max, upstream.continuation_wait_s),
        )
        hold_rules = HoldRules(settings.budgets.max_tokens_default, settings.spool.progress_tokens)
        return Plane(
            metering=Metering(self._spool, self._metrics, now_ms, rules),
            authn=Authn(self._directory, now_ms),
            directory=self._directory,
            predictor=self._predictor,
            holds=Holding(self._holds, Declared(self._directory), hold_rules),
            waiting=self._waiting,
            admission=self._admission,
            upstream=Upstream(self._roster, self._connections, limits, self._retries, self._hedges),
            shares_prefix_cache=settings.shares_prefix_cache,
            continues_streams=settings.upstream.continuations_max > 0,
        )

    def _make_lane(self, plane: Plane) -> JobLane:
        settings, jobs = self._settings, self._settings.jobs
        limits = JobRules(jobs.waiting_max, jobs.limit_s, jobs.result_kept_s)
        store = make_jobs(settings, self._redis, self._owner, known_s=limits.known_s)
        runner = RunnerRules(jobs.concurrency, jobs.attempts_max, jobs.limit_s, jobs.lease_s)
        rules = LaneRules(limits, runner, WebhookRules(**jobs.webhook_rules))
        endpoints = {
            chat.PATH: Endpoint(parse_chat, chat.serve_chat),
            completions.PATH: Endpoint(parse_completion, completions.serve_completion),
        }
        return make_lane(store, self._objects, plane, endpoints, self._slots, rules)

    def _slots(self, pool: str) -> int:
        return slots(self._roster.views(pool))

    def _make_edge(self, plane: Plane) -> Edge:
        settings = self._settings
        agents = Agents(
            self._roster,
            settings.worker_token,
            settings.roster.lease_s,
            self._shipper.reading,
            now_ms,
            self._adapters_of,
        )
        directory = SqlDirectory(self._database)
        desk = self._make_desk(directory, plane)
        planes = {
            "/admin/": control_app(
                directory, self._roster, settings.admin_token, now_ms, settings.zone, desk, self._scale, self._explained
            ),
            "/finance/": finance_app(self._journal, self._work, settings.admin_token, settings.zone),
        }
        health = Health(self._vitals.components, self._metrics)
        return Edge(plane, self._lane.jobs, agents, self._usage, health, planes, now_ms, settings.body_bytes_max)

    def _make_desk(self, directory: SqlDirectory, plane: Plane) -> MoneyDesk:
        addresses = AddressRules(*self._settings.jobs.address_rules)
        budgets, zone, holds = SqlBudgets(self._database), self._settings.zone, plane.holds
        return MoneyDesk(directory, budgets, addresses, zone, now_ms, lambda of: holds.standings_of(of, now_ms()))

    def _make_vitals(self) -> Vitals:
        holds = self._holds
        return Vitals(
            metrics=self._metrics,
            roster=self._roster,
            admission=self._admission,
            placement=self._placement,
            retries=self._retries,
            hedges=self._hedges,
            lane=self._lane,
            directory=self._directory,
            spool=self._spool,
            shipper=self._shipper,
            residue=self._residue,
            scale=self._scale,
            are_holds_shared=None if self._redis is None else lambda: holds.is_up,
        )

    async def _keep_house(self) -> None:
        loop = asyncio.get_running_loop()
        for turn in count():
            due = loop.time() + HOUSEKEEPING_S
            await asyncio.sleep(HOUSEKEEPING_S)
            self._metrics.loop_lag.set(max(0.0, loop.time() - due))
            try:
                self._connections.sweep()
                self._expect_starts()
                self._admission.resize()
                if turn % OCCUPANCY_ROUNDS == 0:
                    await self._vitals.read_occupancy()
            except Exception:  # a loop that everything else relies on must not end by one bad round
                log.exception("housekeeping_failed")

    def _expect_starts(self) -> None:
        """Go by what is declared of a pool's starts, until one was seen."""
        for pool in self._directory.snapshot.pools.values():
            self._starts.expect(pool.name, pool.cold_start_s)

    def _adapters_of(self, pool: str) -> Mapping[str, str] | None:
        """Give the LoRA adapters that a pool's declaration names, None for a pool that is not declared."""
        declared = self._directory.snapshot.pools.get(pool)
        return None if declared is None else declared.adapters

    def _engines(self) -> list[tuple[str, int]]:
        """List the engine processes that are known to run."""
        return [(beat.worker, beat.engine_started_ms) for beat in self._roster.beats() if beat.engine_started_ms]


def _pools(snapshot: Snapshot) -> set[str]:
    """Name the pools that clients may ask for."""
    return {pool for model in snapshot.models.values() if not model.is_retired for pool in model.pools}


def _residue_rules(settings: Settings) -> WatchRules:
    of = settings.reconcile
    return WatchRules(of.every_s, of.window_s, of.lag_s, Alarm(of.alarm_ratio, of.alarm_tokens))
