"""
Which concrete store fulfils which port, by the settings: Redis where there is a URL of one, else memory.

With app.py the only files that name concrete stores. Nothing here starts anything; what is made must be made on the
event loop it runs on.
"""

import time
from math import inf

from gateway.core.credit import CreditMode
from gateway.core.health import HealthRules
from gateway.core.pools import PoolSpec
from gateway.core.scaling import ScaleRules
from gateway.ports.queue import AdmissionQueue
from gateway.settings import Settings
from gateway.stores.budget_feed import BudgetFeed, FedJournal
from gateway.stores.database import Database
from gateway.stores.degraded import FallbackQueue
from gateway.stores.memory import MemoryQueue
from gateway.stores.memory_demand import MemoryDemand
from gateway.stores.memory_holds import MemoryHolds
from gateway.stores.memory_roster import MemoryRoster
from gateway.stores.objects import FileObjects
from gateway.stores.open_shipper import OpenShipper
from gateway.stores.redis import RedisQueue
from gateway.stores.redis_client import RedisClient
from gateway.stores.redis_demand import RedisDemand
from gateway.stores.redis_holds import RedisHolds
from gateway.stores.redis_jobs import JobTimes, RedisJobs
from gateway.stores.redis_returns import RedisReturns
from gateway.stores.redis_roster import RedisRoster
from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_open import SqlOpenRequests


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def make_roster(settings: Settings, redis: RedisClient | None) -> MemoryRoster | RedisRoster:
    """Make the roster of workers, shared through Redis where there is one."""
    lease_s, refresh_s = settings.roster.lease_s, settings.roster.refresh_s
    mode = CreditMode(settings.upstream.credit)
    health = HealthRules(suspect_s=settings.upstream.suspect_s, **settings.health.model_dump())
    if redis is None:
        return MemoryRoster(lease_s=lease_s, credit_mode=mode, health=health)
    return RedisRoster(redis, lease_s=lease_s, refresh_s=refresh_s, credit_mode=mode, health=health)


def make_spool(settings: Settings) -> FileSpool:
    """Make this process's spool on local disk."""
    spool = settings.spool
    return FileSpool(
        settings.spool_dir,
        settings.gateway_id,
        segment_bytes=spool.segment_bytes,
        bytes_max=spool.bytes_max,
        free_bytes_min=spool.free_bytes_min,
        commit_interval_ms=spool.commit_interval_ms,
        now_ms=now_ms,
    )


def make_shipper(settings: Settings, spool: FileSpool, database: Database, feed: BudgetFeed, owner: str) -> Shipper:
    """Make what carries events from *spool* into the Journal, and tells budgets of them."""
    of = settings.spool
    table = SqlOpenRequests(database, owner, lease_s=of.open_lease_s)
    opens = OpenShipper(
        table, spool.requests, after_s=of.open_ship_after_s, lease_s=of.open_lease_s, batch=of.ship_batch
    )
    journal = FedJournal(SqlJournal(database), feed)
    return Shipper(spool, journal, opens, interval_s=of.ship_interval_s, batch=of.ship_batch, on_recovered=feed.forget)


def make_returns(settings: Settings, redis: RedisClient | None, owner: str) -> RedisReturns | None:
    """Make what tells the other gateways of requests that come again; None where there is no Redis to tell through."""
    if redis is None:
        return None
    return RedisReturns(redis, owner, store_timeout_s=settings.queue.store_timeout_s)


def make_holds(settings: Settings, redis: RedisClient | None, owner: str, feed: BudgetFeed) -> MemoryHolds | RedisHolds:
    """Make the store of holds on limits and budgets, shared through Redis where there is one."""
    if redis is None:
        return MemoryHolds(owner, feed.read_bases, now_ms=now_ms)
    lease_s, timeout_s = settings.queue.lease_s, settings.queue.store_timeout_s
    return RedisHolds(redis, owner, feed.read_bases, lease_s=lease_s, store_timeout_s=timeout_s, now_ms=now_ms)


def make_queue(settings: Settings, redis: RedisClient | None, owner: str, pool: str) -> AdmissionQueue:
    """Make a pool's line: one for all gateways through Redis, with one in memory to fall back on."""
    queue = settings.queue
    local = MemoryQueue(pool, waiting_max=queue.waiting_max, tenant_share=queue.tenant_share)
    if redis is None:
        return local
    shared = RedisQueue(
        redis,
        pool,
        owner=owner,
        waiting_max=queue.waiting_max,
        tenant_share=queue.tenant_share,
        lease_s=queue.lease_s,
        store_timeout_s=queue.store_timeout_s,
    )
    return FallbackQueue(shared, local)


def make_demand(settings: Settings, redis: RedisClient | None, owner: str) -> MemoryDemand | RedisDemand:
    """Make the board on which gateways tell what their pools are asked for, shared through Redis where there is one."""
    if redis is None:
        return MemoryDemand()
    return RedisDemand(redis, owner, lease_s=settings.roster.lease_s, store_timeout_s=settings.queue.store_timeout_s)


def scale_rules(settings: Settings, declared: PoolSpec | None) -> ScaleRules:
    """
    Give what bounds a pool: what was declared of it, else the settings.

    How fast a backlog is worked off is a setting alone: a pool's own *drain_s* is what a worker that leaves has.
    """
    of = settings.scale
    if declared is None:
        return ScaleRules(
            workers_min=of.workers_min,
            workers_max=of.workers_max or None,
            drain_s=of.drain_s,
            down_s=of.down_s,
            idle_s=of.idle_s,
        )
    return ScaleRules(
        workers_min=declared.workers_min,
        workers_max=declared.workers_max,
        drain_s=of.drain_s,
        down_s=of.down_s,
        idle_s=inf if declared.idle_s is None else declared.idle_s,
    )


def make_objects(settings: Settings) -> FileObjects:
    """Make the store of jobs' bodies and results."""
    return FileObjects(settings.objects_dir, free_bytes_min=settings.jobs.free_bytes_min, now_ms=now_ms)


def make_jobs(settings: Settings, redis: RedisClient | None, owner: str, *, known_s: float) -> RedisJobs | None:
    """Make the async lane's store; there is none without Redis. Ended jobs are known for *known_s* seconds."""
    if redis is None:
        return None
    jobs = settings.jobs
    times = JobTimes(lease_s=jobs.lease_s, kept_s=jobs.result_kept_s, known_s=known_s)
    return RedisJobs(redis, owner, times, store_timeout_s=settings.queue.store_timeout_s)
