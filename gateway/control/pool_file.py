"""
What sluice.yaml declares beside the settings: pools, names that pools share, the price file.

Every error names its line, and all of them are found in one go. What contradicts itself is found here too; what
cannot be known from the file alone (other declarations, workers that run) is not looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from gateway.control.file_fields import Finding, Findings, Level
from gateway.core.directory import SERVICE_CLASSES
from gateway.core.pools import DRAIN_S, PoolSpec
from gateway.errors import InvalidInput
from gateway.marked_yaml import Marked, did_you_mean, excerpt, read_yaml, shown

SECTIONS = ("pools", "models", "prices")
WORKERS_MAX = 10_000
PARALLEL_MAX = 64  # GPUs that one engine is split over, each way
WEIGHT_MAX = 1_000_000
DAY_S = 86_400.0
_GPUS = ("tensor", "pipeline")
_WORKERS = ("min", "max")
_WAITS = ("wait_s_max", "hold_s_max")
POOL_FIELDS = (
    "model",
    "revision",
    "serves",
    "engine_args",
    "workers",
    "accelerator",
    "gpus_per_worker",
    "adapters",
    *_WAITS,
    "drain_s",
    "idle_s",
    "cold_start_s",
)
# What the worker gives the engine itself, and what says it here instead.
_OWN_ARGS = {
    "--model": "model",
    "--served-model-name": "serves",
    "--tensor-parallel-size": "gpus_per_worker",
    "-tp": "gpus_per_worker",
    "--pipeline-parallel-size": "gpus_per_worker",
    "-pp": "gpus_per_worker",
    "--lora-modules": "adapters",
    "--revision": "revision",
}
_NO_ARGS = {"--host", "--port", "--api-key", "--uds"}  # the agent chooses them at each start


@dataclass(frozen=True, slots=True)
class PoolFile:
    """
    What a file declares, as far as it could be read, and what was found about it; only one without errors is applied.

    *names* maps what clients may ask for to pools and their weights; a name of one pool has weight 1 there. *text* is
    the part of the file that says so, without its settings. *marked* is the whole file.
    """

    file: str
    marked: Marked
    text: str
    pools: Mapping[str, PoolSpec] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    prices: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def digest(self) -> str:
        """The SHA-256 of *text*, in hex."""
        return sha256(self.text.encode()).hexdigest()

    @property
    def errors(self) -> list[Finding]:
        return [each for each in self.findings if each.level is Level.ERROR]

    def check(self) -> None:
        """Raise InvalidInput with every error that was found."""
        if self.errors:
            raise InvalidInput("\n".join(map(str, self.errors)))


def read_pool_file(content: bytes, name: str) -> PoolFile:
    """Read a sluice.yaml that is called *name* in messages. Raises InvalidInput for what is no YAML at all."""
    root = read_yaml(content, name)
    text = excerpt(root, content, SECTIONS)
    reader = _Reader(root.value)
    if not _is_whole(root, text):
        advice = "pools, models and prices may use aliases only of what stands in them: they are kept without the rest"
        reader.findings.error(root, advice)
    pools = reader.pools()
    return PoolFile(
        file=name,
        marked=root,
        text=text,
        pools=pools,
        names=reader.names(pools),
        prices=reader.findings.text(root.value.get("prices")),
        findings=tuple(sorted(reader.findings.found, key=lambda each: each.spot)),
    )


def _is_whole(root: Marked, text: str) -> bool:
    """Tell whether the excerpt means by itself what it means in its file."""
    try:
        alone = read_yaml(text.encode(), "")
    except InvalidInput:
        return False
    return bool(alone.plain() == {name: each.plain() for name, each in root.value.items() if name in SECTIONS})


class _Reader:
    """Reads the sections of one file; what is wrong goes to *findings*."""

    def __init__(self, sections: Mapping[str, Marked]) -> None:
        self.findings = Findings()
        self._pools = self.findings.mapping(sections.get("pools"), "a mapping of names to pools")
        self._models = self.findings.mapping(sections.get("models"), "a mapping of names to pools and weights")

    # Pools.

    def pools(self) -> dict[str, PoolSpec]:
        return {name: self._pool(name, at) for name, at in self._pools.items()}

    def _pool(self, name: str, at: Marked) -> PoolSpec:
        found = self.findings
        found.check_name(at, name)
        fields = found.section(at, POOL_FIELDS)
        if isinstance(at.value, dict | None) and not found.text(fields.get("model")):
            found.error(fields.get("model", at), "model is missing: what the workers load, such as Qwen/Qwen3-8B")
        tensor, pipeline = self._gpus(fields.get("gpus_per_worker"))
        least, most = self._workers(fields.get("workers"))
        pool = PoolSpec(
            name=name,
            model=found.text(fields.get("model")),
            revision=found.text(fields.get("revision")),
            serves=found.texts(fields.get("serves"), found.name) or (name,),
            engine_args=found.texts(fields.get("engine_args"), self._argument),
            workers_min=least,
            workers_max=most,
            accelerator=found.text(fields.get("accelerator")),
            tensor=tensor,
            pipeline=pipeline,
            adapters=self._adapters(fields.get("adapters")),
            wait_s_max=self._by_class(fields.get("wait_s_max")),
            hold_s_max=self._by_class(fields.get("hold_s_max")),
            drain_s=found.seconds(fields.get("drain_s"), 0, DAY_S, DRAIN_S),
            idle_s=found.seconds(fields.get("idle_s"), 1, DAY_S, None),
            cold_start_s=found.seconds(fields.get("cold_start_s"), 0, DAY_S, None),
        )
        self._look_at(pool, fields)
        return pool

    def _workers(self, at: Marked | None) -> tuple[int, int]:
        if at is None:
            return 1, 1
        fields = self.findings.section(at, _WORKERS)
        least = self.findings.whole(fields.get("min"), 0, WORKERS_MAX, 1)
        most = self.findings.whole(fields.get("max"), 1, WORKERS_MAX, max(1, least))
        if most < least:
            self.findings.error(fields["max"], f"{most}, must be at least workers.min, which is {least}")
        return least, most

    def _gpus(self, at: Marked | None) -> tuple[int, int]:
        """Read how many GPUs a worker takes: a number splits each layer over them, a mapping says both ways."""
        if at is None or not isinstance(at.value, dict):
            return self.findings.whole(at, 1, PARALLEL_MAX, 1), 1
        fields = self.findings.section(at, _GPUS)
        tensor, pipeline = (self.findings.whole(fields.get(way), 1, PARALLEL_MAX, 1) for way in _GPUS)
        return tensor, pipeline

    def _argument(self, at: Marked) -> str:
        argument = self.findings.text(at)
        option = argument.split("=")[0]
        if option in _OWN_ARGS:
            self.findings.error(at, f"{shown(argument)}, is given by the worker: write `{_OWN_ARGS[option]}:` instead")
        elif option in _NO_ARGS:
            self.findings.error(at, f"{shown(argument)}, is chosen by the worker at each start: leave it out")
        return argument

    def _adapters(self, at: Marked | None) -> dict[str, str]:
        adapters = self.findings.mapping(at, "a mapping of names to where adapters come from")
        for name, source in adapters.items():
            self.findings.check_name(source, name)
            if not self.findings.text(source):
                self.findings.error(source, "has no source: write a folder, or a ModelScope id such as acme/support")
        return {name: self.findings.text(source) for name, source in adapters.items()}

    def _by_class(self, at: Marked | None) -> dict[str, float]:
        fields = {} if at is None else self.findings.section(at, SERVICE_CLASSES)
        known = {name: each for name, each in fields.items() if name in SERVICE_CLASSES}
        return {name: self.findings.seconds(each, 0, DAY_S, 0.0) for name, each in known.items()}

    def _look_at(self, pool: PoolSpec, fields: Mapping[str, Marked]) -> None:
        """Note what is possible and yet makes no sense."""
        if pool.idle_s is not None and pool.workers_min > 0:
            message = f"has no effect: workers.min is {pool.workers_min}, so the pool never goes to no worker"
            self.findings.warning(fields["idle_s"], message)
        if pool.workers_min == 0 and pool.idle_s is None:
            message = "is 0, but without idle_s the pool goes to no worker only by hand: add `idle_s: 600`, for one"
            self.findings.warning(fields["workers"].find(("min",)), message)

    # Names.

    def names(self, pools: Mapping[str, PoolSpec]) -> dict[str, dict[str, int]]:
        """
        Give whom each name is asked of: what `models` says, else the pool that serves it.

        A pool may serve a name that `models` shares out: its engines answer to it then as it is.
        """
        found: dict[str, dict[str, int]] = {}
        for pool in pools.values():
            for name in pool.names:
                if name in found and name not in self._models:
                    self._clash(name, pool.name, next(iter(found[name])))
                found.setdefault(name, {pool.name: 1})
        for name, at in self._models.items():
            found[name] = self._shares(name, at, pools)
            for pool in pools.values():
                if name in pool.names and pool.name not in found[name]:
                    self.findings.warning(at, f"gives pool {pool.name}, which serves this name too, nothing")
        return found

    def _clash(self, name: str, pool: str, other: str) -> None:
        at = self._pools[pool].find(("adapters", name))
        at = at if at.path[-1] == name else self._pools[pool].find(("serves",))
        if pool == other:
            self.findings.error(at, f"{shown(name)} stands twice")
            return
        advice = f"declare it once: `models: {{{name}: {{{other}: 95, {pool}: 5}}}}` shares it"
        self.findings.error(at, f"{shown(name)} is served by pool {other} already; {advice}")

    def _shares(self, name: str, at: Marked, pools: Mapping[str, PoolSpec]) -> dict[str, int]:
        self.findings.check_name(at, name)
        fields = self.findings.mapping(at, "a mapping of pools to weights, such as {qwen3-8b: 95, qwen3-8b-next: 5}")
        weights = {pool: self.findings.whole(each, 0, WEIGHT_MAX, 1) for pool, each in fields.items()}
        for pool, each in fields.items():
            if pool not in pools:
                known = f"Pools here: {', '.join(pools) or 'none'}"
                self.findings.error(each, f"there is no pool {shown(pool)}.{did_you_mean(pool, list(pools))} {known}")
        if isinstance(at.value, dict | None) and not sum(weights.values()):
            self.findings.error(at, "its weights sum to nothing: give one pool a weight of 1 or more")
        return weights
