"""
Applying sluice.yaml: what it would change, and doing it in one step.

The file is compared with what is declared, not with what was applied last: so it also repairs what drifted. A name is
taken away only if a file had put it there; what people declared by `sluice models` is theirs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from gateway.control.file_fields import Finding, Findings
from gateway.control.pool_file import PoolFile
from gateway.control.prices import Change as PriceChange
from gateway.control.prices import PricePlan
from gateway.core.directory import Model
from gateway.core.pools import PoolSpec
from gateway.errors import AlreadyExists, InvalidInput
from gateway.ports.pools import Applied, Declared, PoolStore, Writes

TRIES = 20  # the Directory may change under us, as keys are made: then what is to be done is worked out anew


class Change(Enum):
    """What happens to something declared; the label is permanent."""

    NEW = "new"
    CHANGED = "changed"
    RETIRED = "retired"  # clients get 404 from then on
    REMOVED = "removed"  # a pool, whose workers may go on under the gateway's own limits
    UNCHANGED = "unchanged"
    KEPT = "kept"  # declared by hand, and the file says the same: it stays when the file drops it


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the file declares, or that a file before it did; *details* say what changes of it."""

    kind: str
    name: str
    change: Change
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApplyPlan:
    """What applying a file would do to what is *declared*; *findings* are errors that only that shows."""

    declared: Declared
    text: str
    digest: str
    steps: tuple[Step, ...]
    writes: Writes
    findings: tuple[Finding, ...] = ()
    rolls_back_to: int | None = None

    def counts(self) -> dict[str, int]:
        """Say how many things each change befalls."""
        return {change.value: sum(step.change is change for step in self.steps) for change in Change}

    @property
    def changes(self) -> list[Step]:
        """The steps that change something."""
        return [step for step in self.steps if step.change not in {Change.UNCHANGED, Change.KEPT}]


def plan_apply(
    declared: Declared, file: PoolFile, *, now_ms: int, takes_over: bool = False, rolls_back_to: int | None = None
) -> ApplyPlan:
    """
    Tell what applying *file* would do, prices aside; `with_prices` adds those.

    A name that was declared by hand and that the file declares otherwise is an error in the plan's findings, unless the
    file *takes over*.
    """
    found = Findings()
    pools = list(_pool_steps(declared, file))
    models = list(_model_steps(declared, file, found, now_ms, takes_over=takes_over))
    return ApplyPlan(
        declared=declared,
        text=file.text,
        digest=file.digest,
        steps=tuple(step for step, _ in [*pools, *models]),
        writes=Writes(
            pools=tuple(pool for _, pool in pools if pool is not None),
            models=tuple(model for _, model in models if model is not None),
        ),
        findings=tuple(found.found),
        rolls_back_to=rolls_back_to,
    )


def with_prices(plan: ApplyPlan, prices: PricePlan) -> ApplyPlan:
    """Add what a price file would do."""
    steps = [
        Step("price", each.version.model, Change.NEW if each.change is PriceChange.NEW else Change.CHANGED)
        for each in prices.steps
        if each.change is not PriceChange.UNCHANGED
    ]
    writes = replace(plan.writes, prices=tuple(prices.writes))
    return replace(plan, steps=(*plan.steps, *steps), writes=writes)


def carry_out(
    store: PoolStore, make_plan: Callable[[], ApplyPlan], *, who: str, now_ms: int, expected: int | None = None
) -> tuple[ApplyPlan, Applied | None]:
    """
    Do what *make_plan* says, and note it; None if there is nothing to do.

    *expected* is the number that was applied last, as the caller knows it. Raises AlreadyExists if somebody applied
    something else since then or meanwhile, InvalidInput if the plan has errors; nothing is written then.
    """
    for _ in range(TRIES):
        plan = make_plan()
        expected = plan.declared.number if expected is None else expected
        _check(plan, expected)
        if not plan.writes:
            return plan, None
        applied = Applied(
            number=expected + 1,
            at_ms=now_ms,
            who=who,
            digest=plan.digest,
            text=plan.text,
            rolls_back_to=plan.rolls_back_to,
        )
        if store.carry_out(plan.writes, applied, at_version=plan.declared.version):
            return plan, applied
    raise AlreadyExists(f"The Directory changed {TRIES} times while this was to be applied. Try again.")


def _check(plan: ApplyPlan, expected: int) -> None:
    last = plan.declared.applied
    if plan.declared.number != expected:
        now = f"{last.who} applied version {last.number}" if last else "nothing has been applied"
        advice = "Look at what changes now with `sluice apply --dry-run`, and try again"
        raise AlreadyExists(f"Version {expected} is not what is applied: {now}. Nothing was changed. {advice}.")
    if plan.findings:
        raise InvalidInput("\n".join(map(str, plan.findings)))


def _pool_steps(declared: Declared, file: PoolFile) -> Iterator[tuple[Step, PoolSpec | None]]:
    """Give what happens to each pool, and its row if that changes."""
    known = {pool.name: pool for pool in declared.pools}
    for name, pool in file.pools.items():
        old = known.pop(name, None)
        if old is None:
            yield Step("pool", name, Change.NEW, (f"model {pool.model}",)), pool
        elif old == pool:
            yield Step("pool", name, Change.UNCHANGED), None
        else:
            yield Step("pool", name, Change.CHANGED, tuple(_differences(old, pool))), pool
    for name, pool in known.items():
        yield Step("pool", name, Change.REMOVED), replace(pool, is_removed=True)


def _differences(old: PoolSpec, new: PoolSpec) -> Iterator[str]:
    before, after = asdict(old), asdict(new)
    for name, value in after.items():
        if before[name] != value:
            yield f"{name} {_shown(before[name])} → {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_shown(each)}" for name, each in value.items()) or "none"
    if isinstance(value, tuple | list):
        return " ".join(value) or "none"
    return "none" if value in (None, "") else f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(slots=True)
class _Names:
    """Compares the names of a file with the models that are declared."""

    file: PoolFile
    found: Findings
    now_ms: int
    takes_over: bool
    known: dict[str, Model] = field(default_factory=dict)

    def step(self, name: str, weights: Mapping[str, int]) -> tuple[Step, Model | None]:
        """Give what happens to a name that the file declares, and its row if that changes."""
        old = self.known.get(name)
        new = self._model(name, weights, old)
        if old is None or old.is_retired:
            return Step("model", name, Change.NEW, (_routes(new),)), new
        if old == new:
            return Step("model", name, Change.UNCHANGED, (_routes(new),)), None
        if old.is_from_file or self.takes_over:
            details = [f"{_routes(old)} → {_routes(new)}"] if _routes(old) != _routes(new) else []
            return Step("model", name, Change.CHANGED, (*details, *self._taken(old))), new
        if _routes(old) != _routes(new):
            self._clash(name, old)
        return Step("model", name, Change.KEPT, (f"{_routes(old)}, declared by hand",)), None

    def _model(self, name: str, weights: Mapping[str, int], old: Model | None) -> Model:
        created_ms = old.created_ms if old else self.now_ms
        weightiest = max(weights, key=lambda pool: weights[pool], default="")
        shares = dict(weights) if len(weights) > 1 else {}
        return Model(name=name, pool=weightiest, created_ms=created_ms, weights=shares, is_from_file=True)

    def _taken(self, old: Model) -> list[str]:
        return [] if old.is_from_file else ["was declared by hand; the file owns it from now on"]

    def _clash(self, name: str, old: Model) -> None:
        at = self.file.marked.find(("models", name))
        if at.path != ("models", name):
            at = next((self.file.marked.find(("pools", pool)) for pool in self.file.names[name]), self.file.marked)
        message = f"{name!r} was declared by hand for {_routes(old)}. --take-over makes it the file's"
        self.found.error(at, f"{message}; `sluice models retire {name}` takes it away first")


def _model_steps(
    declared: Declared, file: PoolFile, found: Findings, now_ms: int, *, takes_over: bool
) -> Iterator[tuple[Step, Model | None]]:
    names = _Names(file, found, now_ms, takes_over, {model.name: model for model in declared.models})
    for name, weights in file.names.items():
        yield names.step(name, weights)
    for model in _dropped(declared.models, file):
        yield Step("model", model.name, Change.RETIRED, (_routes(model),)), replace(model, is_retired=True)


def _dropped(models: Iterable[Model], file: PoolFile) -> Iterator[Model]:
    """Give the names that a file had put there and this one does not declare."""
    for model in models:
        if model.is_from_file and not model.is_retired and model.name not in file.names:
            yield model


def _routes(model: Model) -> str:
    """Say whom a name is asked of, with the share of each pool."""
    if not model.weights:
        return f"pool {model.pool}"
    total = sum(model.weights.values())
    return ", ".join(f"{100 * weight / total:g} % pool {pool}" for pool, weight in model.weights.items())
