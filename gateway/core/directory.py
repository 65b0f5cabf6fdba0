"""
The Directory as the data plane sees it: one immutable, versioned snapshot of what people declared.

Control writes rows in SQL; each row carries the directory version at which it last changed, so a gateway that holds
version v asks only for rows above v and builds the next snapshot from the one it has.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Any, TypeVar, cast

from gateway.core.budgets import Budget
from gateway.core.limits import Limit
from gateway.core.pools import PoolSpec, merge_pools
from gateway.core.prices import PriceBook, PriceVersion

_Row = TypeVar("_Row")


class ServiceClass(IntEnum):
    """Classes of service, most urgent first; the number is the order in the queue."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2

    @property
    def label(self) -> str:
        return self.name.lower()


SERVICE_CLASSES: Mapping[str, ServiceClass] = MappingProxyType({known.label: known for known in ServiceClass})
WEIGHT_MAX = 100  # a tenant that needs a larger share than this over another needs a pool of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """
    Who pays. A suspended tenant's keys are refused. *service_class* bounds what its keys may ask for.

    *weight* (1 to 100) is its share: while both wait, weight 3 gets three times the tokens of weight 1.
    """

    id: str
    name: str
    service_class: str = ServiceClass.STANDARD.label
    weight: int = 1
    is_suspended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """
    An API key, without its secret: *digest* is the SHA-256 of it in hex, *hint* its last four characters.

    *service_class* is that of its requests, None means its tenant's; the less urgent of the two counts.
    """

    id: str
    tenant: str
    project: str
    name: str
    digest: str = field(repr=False)
    hint: str
    created_ms: int
    expires_ms: int | None = None
    service_class: str | None = None
    is_revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """
    A name that clients may ask for, and the pool of workers that serves it.

    With *weights* its requests are shared out between several pools, each to the pool that core/canary.py chooses;
    *pool* is the weightiest then. *is_from_file* tells whether `sluice apply` put it there: only that takes it away.
    """

    name: str
    pool: str
    created_ms: int
    is_retired: bool = False
    weights: Mapping[str, int] = field(default_factory=dict)
    is_from_file: bool = False

    @property
    def pools(self) -> tuple[str, ...]:
        """All pools that serve it, also those that get no requests now."""
        return tuple(self.weights) or (self.pool,)


def model_to_row(model: Model) -> dict[str, Any]:
    """Give a model as plain values, its weights as JSON text."""
    return asdict(model) | {"weights": json.dumps(dict(model.weights))}


def model_from_row(**values: Any) -> Model:
    """Make a model of what `model_to_row` gave. Raises ValueError or TypeError for anything else."""
    return Model(**{**values, "weights": json.loads(values["weights"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Rows that changed after some version, and the version they lead to."""

    version: int
    tenants: tuple[Tenant, ...] = ()
    keys: tuple[Key, ...] = ()
    models: tuple[Model, ...] = ()
    prices: tuple[PriceVersion, ...] = ()
    limits: tuple[Limit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    pools: tuple[PoolSpec, ...] = ()


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    Everything the data plane needs to know of the Directory. Keys are by digest, limits and budgets by id.

    *pools* are those that are declared, by name; workers may join others too.
    """

    version: int = 0
    tenants: Mapping[str, Tenant] = field(default_factory=_nothing)
    keys: Mapping[str, Key] = field(default_factory=_nothing)
    models: Mapping[str, Model] = field(default_factory=_nothing)
    prices: PriceBook = field(default_factory=PriceBook)
    limits: Mapping[str, Limit] = field(default_factory=_nothing)
    budgets: Mapping[str, Budget] = field(default_factory=_nothing)
    pools: Mapping[str, PoolSpec] = field(default_factory=_nothing)

    def apply(self, changes: Changes) -> "Snapshot":
        """Give the snapshot after *changes*; this one stays as it was."""
        return replace(
            self,
            version=changes.version,
            tenants=_merge(self.tenants, ((t.id, t) for t in changes.tenants)),
            keys=_merge(self.keys, ((k.digest, k) for k in changes.keys)),
            models=_merge(self.models, ((m.name, m) for m in changes.models)),
            prices=self.prices.apply(changes.prices),
            limits=_merge(self.limits, ((limit.id, limit) for limit in changes.limits)),
            budgets=_merge(self.budgets, ((budget.id, budget) for budget in changes.budgets)),
            pools=merge_pools(self.pools, changes.pools),
        )


def _merge(old: Mapping[str, _Row], new: Iterable[tuple[str, _Row]]) -> Mapping[str, _Row]:
    """Copy by `|`: {**old} would walk a mapping proxy item by item, 55 ms against 3 for 200,000 keys."""
    changed = dict(new)
    return MappingProxyType(cast("dict[str, _Row]", old) | changed) if changed else old
