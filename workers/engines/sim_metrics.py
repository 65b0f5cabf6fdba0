"""The simulated engine's /metrics: vLLM's names and labels, for the signals that gateways and agents read."""

from collections.abc import Iterable
from typing import Any

from workers.engines.sim_batch import Batch

_FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")

Sample = tuple[dict[str, str], float]


def render_metrics(batch: Batch[Any], model: str, started_s: float) -> bytes:
    """Give the page in Prometheus' text format; *started_s* is the process's start in Unix seconds."""
    of_engine = {"engine": "0", "model_name": model}
    count = batch.counters
    gauges = {
        "num_requests_running": batch.running,
        "num_requests_waiting": batch.left_waiting,
        "kv_cache_usage_perc": batch.cache.usage,
    }
    counters = {
        "prefix_cache_queries": count.cache_queries,
        "prefix_cache_hits": count.cache_hits,
        "num_preemptions": count.preemptions,
        "prompt_tokens": count.prompt_tokens,
        "prompt_tokens_cached": count.cached_tokens,
        "generation_tokens": count.generation_tokens,
    }
    finished = [({**of_engine, "finished_reason": reason}, count.finished[reason]) for reason in _FINISHED_REASONS]
    lines = _family("process_start_time_seconds", "gauge", [({}, started_s)])
    for name, value in gauges.items():
        lines += _family(f"vllm:{name}", "gauge", [(of_engine, value)])
    for name, value in counters.items():
        lines += _family(f"vllm:{name}_total", "counter", [(of_engine, value)])
    lines += _family("vllm:request_success_total", "counter", finished)
    return "\n".join([*lines, ""]).encode()


def _family(name: str, kind: str, samples: Iterable[Sample]) -> list[str]:
    lines = [f"# HELP {name} As in vLLM.", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        rendered = ",".join(f'{key}="{_escape(label)}"' for key, label in sorted(labels.items()))
        lines.append(f"{name}{{{rendered}}} {float(value)!r}" if labels else f"{name} {float(value)!r}")
    return lines


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
