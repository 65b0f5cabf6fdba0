"""
The metrics of single workers, read from the roster at each scrape.

Workers come and go, each start of an agent with a new name, so nothing is kept here: a worker's series go with it. Of
more than *workers_max* the rest are summed up as one, "other", lest a large pool fill Prometheus.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from gateway.core.health import HealthState, WorkerFault
from gateway.core.roster import WorkerState
from gateway.core.worker_figures import WorkerFigures

WORKERS_MAX = 200
OTHER = "other"


class WorkerSeries(Collector):
    """Every metric with the label worker, but those of reconciliation. Counts are since a worker was first listed."""

    def __init__(self, read: Callable[[], Sequence[WorkerFigures]], workers_max: int = WORKERS_MAX) -> None:
        self._read = read
        self._workers_max = workers_max

    def collect(self) -> Iterator[Metric]:
        workers = sorted(self._read(), key=lambda of: of.worker)
        groups = [(of.worker, [of]) for of in workers[: self._workers_max]]
        if rest := workers[self._workers_max :]:
            groups.append((OTHER, rest))
        yield _gauge(
            "sluice_worker_in_flight_requests", "This gateway's requests on it.", groups, lambda of: of.in_flight
        )
        yield _gauge("sluice_worker_credit_seqs", "Sequences it may have in flight.", groups, lambda of: of.credit_seqs)
        yield _states("sluice_worker_state", "What it says it is.", "state", list(WorkerState), groups)
        yield _states("sluice_worker_health", "How this gateway takes it.", "health", list(HealthState), groups)
        yield _failures(groups)
        yield _count("sluice_worker_ejections", "Times it was ejected.", groups, lambda of: of.ejections)
        yield _ttft(groups)

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily("sluice_worker_credit_seqs", "Sequences it may have in flight.")]


_Groups = list[tuple[str, list[WorkerFigures]]]
_Number = Callable[[WorkerFigures], float]


def _gauge(name: str, text: str, groups: _Groups, number: _Number) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["worker"])
    for worker, of in groups:
        family.add_metric([worker], sum(map(number, of)))
    return family


def _count(name: str, text: str, groups: _Groups, number: _Number) -> Metric:
    family = CounterMetricFamily(name, text, labels=["worker"])
    for worker, of in groups:
        family.add_metric([worker], sum(map(number, of)))
    return family


def _states(
    name: str, text: str, label: str, states: Sequence[WorkerState] | Sequence[HealthState], groups: _Groups
) -> Metric:
    """Make a gauge that counts those in each state, 1 for a single worker; states nobody is in are left out."""
    family = GaugeMetricFamily(name, text, labels=["worker", label])
    for worker, group in groups:
        for state in states:
            number = sum(getattr(of, label) is state for of in group)
            if number:
                family.add_metric([worker, state.value], number)
    return family


def _failures(groups: _Groups) -> Metric:
    family = CounterMetricFamily("sluice_worker_failures", "Tries it failed.", labels=["worker", "fault"])
    for worker, group in groups:
        for fault in WorkerFault:
            number = sum(of.faults[fault] for of in group)
            if number:
                family.add_metric([worker, fault.label], number)
    return family


def _ttft(groups: _Groups) -> Metric:
    family = SummaryMetricFamily(
        "sluice_worker_ttft_seconds", "Dispatch to first token, as this gateway saw it.", labels=["worker"]
    )
    for worker, group in groups:
        family.add_metric([worker], sum(of.first_tokens for of in group), sum(of.ttft_s for of in group))
    return family
