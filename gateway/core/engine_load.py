"""
What an engine says of its load in the head of an answer.

ORCA (Open Request Cost Aggregation), as vLLM 0.32 speaks it: asked by `endpoint-load-metrics-format: json`, it puts
`endpoint-load-metrics: JSON {"named_metrics": {…}}` on whole answers. Streams carry none: their head leaves first.
"""

import json
from dataclasses import dataclass
from math import isfinite

ASK = "endpoint-load-metrics-format: json"
HEADER = b"endpoint-load-metrics"
_PREFIX = b"JSON "


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How many requests wait inside the engine, and how much of its KV cache is taken (0 to 1), as it answered."""

    waiting: float
    kv_cache_usage: float


def read_engine_load(value: bytes | None) -> EngineLoad | None:
    """Read the header's value; None if there is none or it says nothing that can be used."""
    if value is None or not value.startswith(_PREFIX):
        return None
    try:
        said = json.loads(value[len(_PREFIX) :])["named_metrics"]
        load = EngineLoad(float(said["num_requests_waiting"]), float(said["kv_cache_usage_perc"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return load if isfinite(load.waiting) and 0 <= load.kv_cache_usage <= 1 else None
