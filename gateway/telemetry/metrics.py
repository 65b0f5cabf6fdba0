"""
Every metric, in one table.

Base units; labels only model, pool, worker, outcome and class, all of them bounded by what operators declare. Tenants
are counted in the Journal, not here. What there is of single workers stands in worker_series.py.
"""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.core.usage import MeterEvent
from gateway.core.worker_figures import WorkerFigures
from gateway.telemetry.worker_series import WorkerSeries

UNKNOWN = "unknown"  # the label of what is not declared: a stranger cannot make new series

# From a cache hit on a small model to a queue of minutes.
_TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_ITL_BUCKETS_S = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)
_ETA_ERROR_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_WAIT_BUCKETS_S = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The process's metrics; one instance, handed to whoever counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._requests = Counter("sluice_requests", "Requests ended.", ["model", "outcome", "class"], registry=r)
        self._prompt = Counter("sluice_prompt_tokens", "Prompt tokens billed.", ["model"], registry=r)
        self._cached = Counter("sluice_cached_tokens", "Prompt tokens found in a prefix cache.", ["model"], registry=r)
        self._completion = Counter("sluice_completion_tokens", "Completion tokens billed.", ["model"], registry=r)
        self._undelivered = Counter(
            "sluice_undelivered_tokens", "Completion tokens that came after the client had left.", ["model"], registry=r
        )
        self._retries = Counter("sluice_retries", "Tries beyond the first.", ["model"], registry=r)
        self._continued = Counter(
            "sluice_streams_continued", "Times another worker went on with a stream.", ["model"], registry=r
        )
        self._ttft = Histogram(
            "sluice_ttft_seconds", "Arrival to first byte.", ["model"], buckets=_TTFT_BUCKETS_S, registry=r
        )
        self._itl = Histogram(
            "sluice_itl_seconds", "Mean time between a stream's tokens.", ["model"], buckets=_ITL_BUCKETS_S, registry=r
        )
        self._wait = Histogram(
            "sluice_queue_wait_seconds", "Time in the queue.", ["pool", "class"], buckets=_WAIT_BUCKETS_S, registry=r
        )
        self._refusals = Counter("sluice_refusals", "Requests refused here.", ["code", "class"], registry=r)
        self._predicted_cache = Counter(
            "sluice_routing_predicted_cached_tokens", "Prompt tokens expected in caches.", ["pool"], registry=r
        )
        self._actual_cache = Counter(
            "sluice_routing_actual_cached_tokens", "Those that were, of the same requests.", ["pool"], registry=r
        )
        self._cache_error = Counter(
            "sluice_routing_cached_error_tokens", "By how much these differ, request by request.", ["pool"], registry=r
        )
        self._eta_error = Histogram(
            "sluice_queue_eta_error_ratio",
            "How far the first expected wait that was told missed the true one, as a part of that.",
            ["pool"],
            buckets=_ETA_ERROR_BUCKETS,
            registry=r,
        )
        self._jobs = Counter("sluice_jobs", "Jobs ended.", ["outcome"], registry=r)
        self._webhooks = Counter("sluice_webhooks", "Tries to send a webhook.", ["outcome"], registry=r)
        self._alerts = Counter("sluice_budget_alerts", "Alerts noted, and tries to tell one.", ["outcome"], registry=r)
        self.in_flight = Gauge("sluice_in_flight_requests", "Requests on this gateway that have not ended.", registry=r)
        self.loop_lag = Gauge("sluice_loop_lag_seconds", "How late the event loop runs, last second.", registry=r)

    def count(self, event: MeterEvent, *, is_known: bool) -> None:
        """Count an ended request."""
        model = event.model if is_known else UNKNOWN
        self._requests.labels(model, event.outcome, event.service_class or UNKNOWN).inc()
        if event.queue_ms is not None:
            self._wait.labels(event.pool, event.service_class).observe(event.queue_ms / 1000)
        if event.attempts:
            self._count_dispatched(event, model)

    def _count_dispatched(self, event: MeterEvent, model: str) -> None:
        self._prompt.labels(model).inc(event.prompt_tokens)
        self._cached.labels(model).inc(event.cached_tokens)
        self._completion.labels(model).inc(event.completion_tokens)
        self._undelivered.labels(model).inc(event.undelivered_tokens)
        self._retries.labels(model).inc(event.attempts - 1)
        self._continued.labels(model).inc(event.continued)
        if event.ttft_ms is None:
            return
        self._ttft.labels(model).observe(event.ttft_ms / 1000)
        if event.is_stream and event.completion_tokens > 1:
            stream_ms = event.ended_ms - event.arrived_ms - event.ttft_ms
            self._itl.labels(model).observe(stream_ms / 1000 / (event.completion_tokens - 1))

    def count_refusal(self, code: str | None, service_class: str) -> None:
        """Count a request that was refused with an error *code*."""
        self._refusals.labels(code or UNKNOWN, service_class or UNKNOWN).inc()

    def observe_eta(self, pool: str, eta_s: float, waited_s: float) -> None:
        """Take an expected wait and what it came to; of less than a second it tells nothing."""
        if waited_s >= 1:
            self._eta_error.labels(pool).observe(abs(eta_s - waited_s) / waited_s)

    def count_predicted_cache(self, pool: str, predicted_tokens: int, actual_tokens: int) -> None:
        """Count how much of a prompt was expected to be in its worker's cache, and how much was."""
        self._predicted_cache.labels(pool).inc(predicted_tokens)
        self._actual_cache.labels(pool).inc(actual_tokens)
        self._cache_error.labels(pool).inc(abs(predicted_tokens - actual_tokens))

    def count_job(self, outcome: str) -> None:
        """Count a job that ended: completed, failed or cancelled."""
        self._jobs.labels(outcome).inc()

    def count_webhook(self, outcome: str) -> None:
        """Count a try to send a webhook: delivered, retried or given_up."""
        self._webhooks.labels(outcome).inc()

    def count_alert(self, outcome: str) -> None:
        """Count an alert of a budget: noted; and each try to tell one: delivered, retried or given_up."""
        self._alerts.labels(outcome).inc()

    def watch(self, name: str, text: str, label: str | None, read: Callable[[], dict[str, float]]) -> None:
        """Show gauges whose values are read at scrape time: one a label value, or one for the label None under ''."""
        self.registry.register(_Watched(name, text, label, read))

    def watch_count(self, name: str, text: str, read: Callable[[], int]) -> None:
        """Show a counter that somebody else counts, read at scrape time; `_total` is added to its name."""
        self.registry.register(_WatchedCount(name, text, read))

    def watch_counts(self, name: str, text: str, label: str, read: Callable[[], dict[str, float]]) -> None:
        """Show counters that somebody else counts, one a label value; `_total` is added to their name."""
        self.registry.register(_WatchedCounts(name, text, label, read))

    def watch_workers(self, read: Callable[[], Sequence[WorkerFigures]]) -> None:
        """Show what there is of each worker: worker_series.py has the table."""
        self.registry.register(WorkerSeries(read))

    def render(self) -> bytes:
        """Give the text that Prometheus scrapes."""
        return generate_latest(self.registry)


class _Watched(Collector):
    def __init__(self, name: str, text: str, label: str | None, read: Callable[[], dict[str, float]]) -> None:
        self._name = name
        self._text = text
        self._labels = [label] if label else []
        self._read = read

    def collect(self) -> list[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for value, number in self._read().items():
            family.add_metric([value] if self._labels else [], number)
        return [family]

    def describe(self) -> list[GaugeMetricFamily]:
        return [GaugeMetricFamily(self._name, self._text, labels=self._labels)]


class _WatchedCount(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], int]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> list[Metric]:
        return [CounterMetricFamily(self._name, self._text, self._read())]

    def describe(self) -> list[Metric]:
        return [CounterMetricFamily(self._name, self._text)]


class _WatchedCounts(Collector):
    def __init__(self, name: str, text: str, label: str, read: Callable[[], dict[str, float]]) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._read = read

    def collect(self) -> list[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=[self._label])
        for value, number in self._read().items():
            family.add_metric([value], number)
        return [family]

    def describe(self) -> list[Metric]:
        return [CounterMetricFamily(self._name, self._text, labels=[self._label])]
