"""For each alert: series that must make it fire, the same with less that must not, and when both are looked at."""

from dataclasses import dataclass

UP = 'up{job="sluice", instance="g1"}'
WAITING, READY = (
    'sluice_queue_waiting_requests{instance="g1", pool="p"}',
    'sluice_workers_ready{instance="g1", pool="p"}',
)
DESIRED = 'sluice_pool_desired_workers{instance="g1", pool="p"}'
REQUESTS = 'sluice_requests_total{instance="g1", model="m", class="standard", outcome="%s"}'
WAITS = 'sluice_queue_wait_seconds_bucket{instance="g1", pool="p", class="interactive", le="%s"}'
ETA_SUM = 'sluice_queue_eta_error_ratio_sum{instance="g1", pool="p"}'
ETA_COUNT = 'sluice_queue_eta_error_ratio_count{instance="g1", pool="p"}'
RATIO = 'sluice_reconcile_residue_ratio{instance="g1", worker="w1"}'
TOKENS = 'sluice_reconcile_residue_tokens{instance="g1", worker="w1"}'


@dataclass(frozen=True)
class Case:
    """
    Series in promtool's short form (`0+6x60`: 0, and 6 more each minute), and the *minutes* after which to look.

    *does_not* replaces some of the series of *does*; one of None is left out.
    """

    does: dict[str, str]
    does_not: dict[str, str | None]
    minutes: int
    count: int = 1


def steady(name: str, bad: str, good: str, minutes: int = 10) -> Case:
    """A gauge that stands at *bad*, or at *good*."""
    series = f'{name}{{instance="g1"}}'
    return Case({series: f"{bad}x60"}, {series: f"{good}x60"}, minutes)


def grows(name: str, labels: str = "") -> Case:
    """A counter that must not grow at all."""
    series = f'{name}{{instance="g1"{labels}}}'
    return Case({series: "0+1x60"}, {series: "5+0x60"}, 20)


def share(good: str, bad: str, much: str, little: str) -> Case:
    """Requests of two outcomes, the second of which is too many or not."""
    return Case({REQUESTS % good: "0+60x60", REQUESTS % bad: much}, {REQUESTS % bad: little}, 20)


CASES = {
    "SluiceGatewayDown": Case({UP: "1x5 0x60"}, {UP: "1x60"}, 10),
    "SluiceNoGateway": Case({UP: "1x5 0x60"}, {UP: "1x60"}, 10),
    "SluiceRequestsFail": share("completed", "upstream_failed", "0+6x60", "0+1x60"),
    "SluiceNoWorker": Case({READY: "0x60", WAITING: "3x60"}, {WAITING: "0x60"}, 10),
    "SluiceWorkersMissing": Case(
        {DESIRED: "4x60", 'sluice_pool_running_workers{instance="g1", pool="p"}': "2x60"}, {DESIRED: "2x60"}, 30
    ),
    "SluiceWorkerFails": Case(
        {'sluice_worker_failures_total{instance="g1", worker="w1", fault="timeout"}': "0+2x60"},
        {'sluice_worker_failures_total{instance="g1", worker="w1", fault="timeout"}': "7+0x60"},
        20,
    ),
    "SluiceWorkerEjected": Case(
        {'sluice_worker_health{instance="g1", worker="w1", health="ejected"}': "1x60"},
        {'sluice_worker_health{instance="g1", worker="w1", health="ejected"}': "1x3 0x60"},
        10,
    ),
    "SluiceLoopLag": steady("sluice_loop_lag_seconds", "0.3", "0.01", 20),
    "SluiceWaitsAreLong": Case(
        {WAITS % "60": "0+1x60", WAITS % "120": "0+60x60", WAITS % "+Inf": "0+60x60"}, {WAITS % "60": "0+60x60"}, 20
    ),
    "SluiceRefusesForLoad": share("completed", "queue_full", "0+10x60", "0+1x60"),
    "SluiceEtaWrong": Case({ETA_SUM: "0+9x60", ETA_COUNT: "0+10x60"}, {ETA_SUM: "0+1x60"}, 45),
    "SluiceJobsStand": Case(
        {'sluice_jobs_waiting{instance="g1", pool="p"}': "4x90"},
        {'sluice_jobs_total{instance="g1", outcome="completed"}': "0+1x90"},
        70,
    ),
    "SluiceWebhooksGivenUp": grows("sluice_webhooks_total", ', outcome="given_up"'),
    "SluiceRedisDown": steady("sluice_redis_up", "0", "1"),
    "SluiceHoldsNotShared": steady("sluice_holds_up", "0", "1"),
    "SluiceDatabaseDown": steady("sluice_database_up", "0", "1"),
    "SluiceSpoolOld": steady("sluice_spool_backlog_age_seconds", "45", "2"),
    "SluiceSpoolClosed": steady("sluice_spool_writable", "0", "1"),
    "SluiceSpoolDiskFills": steady("sluice_spool_disk_free_bytes", "5e8", "5e10", 20),
    "SluiceSpoolDamaged": steady("sluice_spool_quarantined_segments", "1", "0"),
    "SluiceUsageUnexplained": Case({RATIO: "0.01x60", TOKENS: "5000x60"}, {TOKENS: "20x60"}, 30),
    "SluiceLateEndings": grows("sluice_spool_late_closes_total"),
    "SluiceRefusalsUnrecorded": grows("sluice_spool_notes_dropped_total"),
}
