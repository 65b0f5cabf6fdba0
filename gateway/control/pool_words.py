"""What each line of sluice.yaml will do, in a sentence."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gateway.control.pool_file import PoolFile
from gateway.core.pools import PoolSpec
from gateway.marked_yaml import Marked

_Words = Callable[[PoolSpec], str]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file: what it sets, to what, and what that does."""

    line: int
    name: str
    value: str
    effect: str


def explain(file: PoolFile, settings: Callable[[str], str]) -> list[Line]:
    """Say what each line does that means something; *settings* gives the words for a setting by its dotted name."""
    lines = [*_setting_lines(file, settings), *_pool_lines(file), *_name_lines(file)]
    if file.prices:
        at = file.marked.value["prices"]
        lines.append(_line(at, "`sluice apply` imports it into the price book in the same step; versions only add up."))
    return sorted(lines, key=lambda each: each.line)


def _setting_lines(file: PoolFile, settings: Callable[[str], str]) -> Iterator[Line]:
    for name, section in file.marked.value.items():
        for at in section.walk() if name not in {"pools", "models", "prices"} else ():
            if not isinstance(at.value, dict | list) and (words := settings(at.dotted)):
                yield Line(at.spot.line, at.dotted, "", words)  # a setting may be a secret


def _pool_lines(file: PoolFile) -> Iterator[Line]:
    for pool in file.pools.values():
        section = file.marked.find(("pools", pool.name))
        yield _line(section, _of_pool(pool))
        for at in section.walk():
            if words := _words(pool, at.path[2:]):
                yield _line(at, words)


def _words(pool: PoolSpec, path: tuple[str, ...]) -> str:
    """Say what the field at *path* of a pool does; nothing for one that has no meaning by itself."""
    if of_field := _OF_FIELD.get(".".join(path)):
        return of_field(pool)
    of_entry = _OF_ENTRY.get(path[0]) if len(path) == 2 else None
    return of_entry(pool, path[1]) if of_entry and path[1] in getattr(pool, path[0]) else ""


def _name_lines(file: PoolFile) -> Iterator[Line]:
    models = file.marked.value.get("models")
    for name, at in models.value.items() if models and isinstance(models.value, dict) else ():
        weights = file.names.get(name, {})
        total = sum(weights.values())
        yield _line(at, f"clients ask for {name}, one name for prices and limits; a user stays with one pool.")
        for pool, each in at.value.items() if isinstance(at.value, dict) and total else ():
            share = f"{100 * weights[pool] / total:g} % of its requests go" if weights[pool] else "no request goes"
            yield _line(each, f"{share} to pool {pool}.")


def _line(at: Marked, effect: str) -> Line:
    return Line(at.spot.line, at.dotted, _value(at), effect)


def _value(at: Marked) -> str:
    if isinstance(at.value, list):
        return " ".join(each.text for each in at.value)
    return "" if isinstance(at.value, dict) else at.text


def _of_pool(pool: PoolSpec) -> str:
    most = pool.workers_max
    gpus = f"{', each' if most > 1 else ''} on {_gpus(pool)}" if pool.accelerator or pool.gpus_per_worker > 1 else ""
    workers = f"{pool.workers_min} to {most}" if pool.workers_min < most else str(most)
    run = "worker runs" if workers == "1" else "workers run"
    return f"{workers} {run} {pool.model or 'nothing yet'}{gpus}, behind one queue."


def _gpus(pool: PoolSpec) -> str:
    count = pool.gpus_per_worker
    return f"{count} {pool.accelerator or 'GPU'}{'s' if count > 1 and not pool.accelerator else ''}"


def _of_gpus(pool: PoolSpec) -> str:
    ways = f"tensor {pool.tensor} × pipeline {pool.pipeline}"
    return f"an engine is split over {pool.gpus_per_worker} ({ways})."


def _of_idle(pool: PoolSpec) -> str:
    if pool.workers_min:
        return "nothing: the pool always keeps a worker."
    return f"after {pool.idle_s:g} s without a request the pool goes to no worker."


_OF_FIELD: Mapping[str, _Words] = MappingProxyType(
    {
        "model": lambda pool: f"what each worker loads{', in revision ' + pool.revision if pool.revision else ''}.",
        "revision": lambda _: "the revision of the model, so that all workers load the same.",
        "serves": lambda pool: f"clients may ask for {', '.join(pool.serves)}; answers carry {pool.serves[0]}.",
        "engine_args": lambda _: "passed on to vLLM as it is by `sluice worker --pool` and `sluice up --pool`.",
        "workers.min": lambda pool: (
            f"at least {pool.workers_min} run, also when nothing is asked."
            if pool.workers_min
            else "the pool may go to no worker; requests wait for its first one."
        ),
        "workers.max": lambda pool: f"never more than {pool.workers_max} run, however long the queue is.",
        "accelerator": lambda _: "the kind of GPU that a worker needs; `sluice check` measures the model against it.",
        "gpus_per_worker": _of_gpus,
        "drain_s": lambda pool: f"a worker that is to leave has {pool.drain_s:g} s for its requests.",
        "idle_s": _of_idle,
        "cold_start_s": lambda pool: f"a start is taken to last {pool.cold_start_s or 0:g} s until one has been seen.",
    }
)

_OF_ENTRY: Mapping[str, Callable[[PoolSpec, str], str]] = MappingProxyType(
    {
        "adapters": lambda pool, name: f"clients may ask for {name}: {pool.model} with this LoRA adapter.",
        "wait_s_max": lambda pool, label: (
            f"a request of class {label} waits {pool.wait_s_max.get(label, 0):g} s in line at most, in this pool."
        ),
        "hold_s_max": lambda pool, label: (
            f"with no worker at all, a request of class {label} is held for {pool.hold_s_max.get(label, 0):g} s."
        ),
    }
)
