"""What Prometheus sees of workers: every one up to a number, the rest as one, and nothing of those that are gone."""

from gateway.core.health import HealthRules, WorkerFault
from gateway.core.roster import WorkerState
from gateway.stores.memory_roster import MemoryRoster
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.worker_series import OTHER, WORKERS_MAX, WorkerSeries
from tests.conformance.rosters import HandClock, beat


def samples(roster, workers_max=3):
    """Give every sample of the roster's workers by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in WorkerSeries(roster.figures, workers_max).collect()
        for sample in family.samples
    }


async def make_roster(count, clock=None):
    roster = MemoryRoster(clock or HandClock(), health=HealthRules(faults_in_row=2, pool_share_max=0.9))
    for n in range(count):
        await roster.beat(beat(f"w{n}", max_seqs=8))
    return roster


async def test_a_worker_is_shown_with_its_state_its_health_and_what_it_did():
    clock = HandClock()
    roster = await make_roster(2, clock)
    await roster.beat(beat("w1", state=WorkerState.DRAINING))
    with roster.working("w1", 1, 1) as working:
        clock.advance(0.5)
        working.prefilled()
        for fault in (WorkerFault.STATUS, WorkerFault.SILENT, WorkerFault.STATUS):
            roster.suspect("w0", fault)
        seen = samples(roster)
    assert seen["sluice_worker_in_flight_requests", "w1"] == 1
    assert seen["sluice_worker_credit_seqs", "w1"] == 8
    assert seen["sluice_worker_state", "w1", "draining"] == 1
    assert seen["sluice_worker_health", "w0", "suspect"] == 1
    assert seen["sluice_worker_failures_total", "w0", "status"] == 2
    assert seen["sluice_worker_failures_total", "w0", "silent"] == 1
    assert seen["sluice_worker_ttft_seconds_sum", "w1"] == 0.5
    assert seen["sluice_worker_ttft_seconds_count", "w1"] == 1
    assert ("sluice_worker_health", "w0", "trusted") not in seen


async def test_an_ejection_is_counted_and_takes_the_workers_credit():
    roster = await make_roster(2)
    for _ in range(2):
        roster.suspect("w0", WorkerFault.STATUS)
    seen = samples(roster)
    assert seen["sluice_worker_ejections_total", "w0"] == 1
    assert seen["sluice_worker_health", "w0", "ejected"] == 1
    assert seen["sluice_worker_credit_seqs", "w0"] == 0


async def test_of_more_workers_than_are_shown_the_rest_are_summed_up():
    roster = await make_roster(10)
    roster.suspect("w8", WorkerFault.BROKEN)
    roster.suspect("w9", WorkerFault.BROKEN)
    seen = samples(roster)
    assert {labels[0] for _, *labels in seen} == {"w0", "w1", "w2", OTHER}
    assert seen["sluice_worker_credit_seqs", OTHER] == 7 * 8
    assert seen["sluice_worker_failures_total", OTHER, "broken"] == 2
    assert (seen["sluice_worker_health", OTHER, "trusted"], seen["sluice_worker_health", OTHER, "suspect"]) == (5, 2)
    assert seen["sluice_worker_state", OTHER, "ready"] == 7


async def test_the_series_of_a_worker_end_with_it():
    """Agents that start get new names; a gateway that ran for a year must not show all of them."""
    clock = HandClock()
    roster = await make_roster(0, clock)
    metrics = Metrics()
    metrics.watch_workers(roster.figures)
    for n in range(3 * WORKERS_MAX):
        await roster.beat(beat(f"agent-{n}"))
        roster.suspect(f"agent-{n}", WorkerFault.BROKEN)
        clock.advance(1.0)
    lines = [line for line in metrics.render().decode().splitlines() if 'worker="' in line]
    shown = {line.split('worker="')[1].split('"')[0] for line in lines}
    assert shown == {f"agent-{n}" for n in range(3 * WORKERS_MAX - 3, 3 * WORKERS_MAX)}
