"""
Pools as they are declared: what a pool's workers run, what clients call it, how many workers there may be.

A pool need not be declared to be served: workers may join any pool. What is not declared has the gateway's own limits.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

DRAIN_S = 60.0  # what a worker that is to leave has for its requests: nearly all answers end within a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """
    A declared pool. *model* is what its engines load, *serves* the names that they answer to; the first names them all.

    A worker takes *tensor* × *pipeline* GPUs of kind *accelerator*. *adapters* maps the names of LoRA adapters to where
    they come from. *wait_s_max* and *hold_s_max* replace the gateway's limits, by the label of the class. A worker that
    is to leave has *drain_s* for its requests; after *idle_s* without one the pool may go to no worker at all (None:
    never); *cold_start_s* is how long a start takes, None if that is not known.
    """

    name: str
    model: str
    revision: str = ""
    serves: tuple[str, ...] = ()
    engine_args: tuple[str, ...] = ()
    workers_min: int = 1
    workers_max: int = 1
    accelerator: str = ""
    tensor: int = 1
    pipeline: int = 1
    adapters: Mapping[str, str] = field(default_factory=dict)
    wait_s_max: Mapping[str, float] = field(default_factory=dict)
    hold_s_max: Mapping[str, float] = field(default_factory=dict)
    drain_s: float = DRAIN_S
    idle_s: float | None = None
    cold_start_s: float | None = None
    is_removed: bool = False

    @property
    def gpus_per_worker(self) -> int:
        """How many GPUs one worker takes."""
        return self.tensor * self.pipeline

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may ask this pool for: its own names, then its adapters."""
        return (*self.serves, *self.adapters)


_OWN_COLUMNS = ("name", "is_removed")
_SPEC_FIELDS = {each.name for each in fields(PoolSpec)} - set(_OWN_COLUMNS)
_TUPLES = ("serves", "engine_args")


def pool_to_row(pool: PoolSpec) -> dict[str, Any]:
    """Give a pool as plain values: name, whether it is removed, and all else as JSON text."""
    spec = {name: value for name, value in asdict(pool).items() if name not in _OWN_COLUMNS}
    return {"name": pool.name, "is_removed": pool.is_removed, "spec": json.dumps(spec)}


def pool_from_row(name: str, is_removed: bool, spec: str) -> PoolSpec:
    """
    Make a pool of what `pool_to_row` gave; what a newer version wrote besides is passed over.

    Raises ValueError or TypeError for anything else.
    """
    values: dict[str, Any] = {
        key: tuple(value) if key in _TUPLES else value for key, value in json.loads(spec).items() if key in _SPEC_FIELDS
    }
    return PoolSpec(name=name, is_removed=is_removed, **values)


def merge_pools(old: Mapping[str, PoolSpec], changed: Iterable[PoolSpec]) -> Mapping[str, PoolSpec]:
    """Give the declared pools after *changed*; those that were removed are not among them."""
    new = {pool.name: pool for pool in changed}
    if not new:
        return old
    return MappingProxyType({name: pool for name, pool in {**old, **new}.items() if not pool.is_removed})
