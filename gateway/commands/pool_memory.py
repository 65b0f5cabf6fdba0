"""What `sluice check` can tell of a pool's model without starting it: its memory, and whether adapters belong to it."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from gateway.control.file_fields import Finding, Findings
from gateway.control.pool_file import PoolFile
from gateway.control.pool_words import Line
from gateway.core.pools import PoolSpec
from gateway.marked_yaml import Marked, did_you_mean, shown
from workers.errors import WorkerError
from workers.hub.catalogue import Catalogue, CatalogueEntry, load_catalogue
from workers.hub.fit import UTILISATION, Fit, fit
from workers.hub.gpus import GPUS_PER_NODE, Gpus, parse_gpus

_ADAPTER_CONFIG = "adapter_config.json"  # as PEFT writes it beside every adapter
_BASE = "base_model_name_or_path"
_UNMEASURED = ("--quantization", "--kv-cache-dtype", "--cpu-offload-gb", "--load-format", "--data-parallel-size")
_UNITS = {"": 1, "k": 1000, "K": 1024}  # as vLLM reads 16k and 16K
_TOKENS = re.compile(r"(\d{1,9})([kK]?)")


def adapter_findings(file: PoolFile) -> list[Finding]:
    """Find adapters in folders on this machine that are none, or whose base is another model than their pool's."""
    found = Findings()
    for pool in file.pools.values():
        for name, source in pool.adapters.items():
            folder = Path(source).expanduser()
            if source and folder.is_dir():
                _check_adapter(found, file.marked.find(("pools", pool.name, "adapters", name)), pool, folder)
    return found.found


def _check_adapter(found: Findings, at: Marked, pool: PoolSpec, folder: Path) -> None:
    try:
        config = json.loads((folder / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = str(config[_BASE])
    except (OSError, ValueError, LookupError, TypeError):
        found.error(at, f"{shown(str(folder))} is no LoRA adapter: {_ADAPTER_CONFIG} with its {_BASE} is missing")
        return
    if Path(base).name.casefold() != Path(pool.model).name.casefold():
        found.warning(at, f"the adapter was made for {shown(base)}, the pool runs {shown(pool.model)}")


def memory_findings(file: PoolFile) -> list[Finding]:
    """Find models that cannot fit on their pool's GPUs, by the catalogue; what that does not know is not measured."""
    found = Findings()
    catalogue = load_catalogue()
    for pool in file.pools.values():
        _check_model(found, file.marked.find(("pools", pool.name, "model")), pool, catalogue)
        entry, gpus = catalogue.entry(pool.model), _gpus(found, file, pool)
        if entry and gpus:
            _check_memory(found, file.marked.find(("pools", pool.name, "accelerator")), pool, entry, gpus)
    return found.found


def memory_lines(file: PoolFile) -> Iterator[Line]:
    """Say how models fit on the GPUs of their pools, where that is known."""
    catalogue = load_catalogue()
    for pool in file.pools.values():
        entry, gpus = catalogue.entry(pool.model), _gpus(Findings(), file, pool)
        found = _fit(pool, entry, gpus) if entry and gpus else None
        if gpus and found and found.is_fitting:
            at = file.marked.find(("pools", pool.name, "accelerator"))
            yield Line(at.spot.line, at.dotted, pool.accelerator, _of_fit(found, gpus))


def _of_fit(found: Fit, gpus: Gpus) -> str:
    needed = found.tensor * found.stages
    where = f"{needed} {gpus.gpu.name}" if needed == gpus.count else f"{needed} of the {gpus.count} {gpus.gpu.name}"
    room = f"{found.sequences} sequences of {found.context_tokens} tokens"
    return f"by the catalogue's estimate the model fits on {where}, with a KV cache for {room}."


def _check_model(found: Findings, at: Marked, pool: PoolSpec, catalogue: Catalogue) -> None:
    """Note an id that is nearly one of the catalogue's: what is not in it at all may well be on ModelScope."""
    known = [entry.id for entry in catalogue.entries]
    if "/" in pool.model and catalogue.entry(pool.model) is None and not Path(pool.model).expanduser().exists():
        owner = pool.model.partition("/")[0]
        close = did_you_mean(pool.model, [each for each in known if each.startswith(f"{owner}/")])
        if close:
            found.warning(at, f"{shown(pool.model)} is not in the catalogue, so it is not measured.{close}")


def _gpus(found: Findings, file: PoolFile, pool: PoolSpec) -> Gpus | None:
    if not pool.accelerator or pool.accelerator.casefold() == "cpu":
        return None
    try:
        return parse_gpus(f"{pool.accelerator}:{pool.gpus_per_worker}")
    except WorkerError as error:
        at = file.marked.find(("pools", pool.name, "accelerator"))
        found.warning(at, f"{str(error).rstrip('.')}. The model is not measured against it")
        return None


def _check_memory(found: Findings, at: Marked, pool: PoolSpec, entry: CatalogueEntry, gpus: Gpus) -> None:
    if entry.architecture and not entry.architecture.can_split(pool.tensor):
        found.error(at, f"{pool.model} cannot be split over {pool.tensor} GPUs: its heads do not divide by that")
        return
    fitting = _fit(pool, entry, gpus)
    if fitting and not fitting.is_fitting:
        ask = f"`sluice models fit --gpu {gpus.gpu.name}:{max(gpus.count, GPUS_PER_NODE)} --model {pool.model}`"
        found.error(at, f"{pool.model} does not fit on {gpus}: {fitting.reason}. {ask} shows what would")


def _fit(pool: PoolSpec, entry: CatalogueEntry, gpus: Gpus) -> Fit | None:
    """Measure a model as its engines are told to run it; None where an argument makes the estimate worthless."""
    arguments = dict(_arguments(pool.engine_args))
    if any(name in arguments for name in _UNMEASURED):
        return None
    context = _TOKENS.fullmatch(arguments.get("--max-model-len", ""))
    try:
        utilisation = float(arguments.get("--gpu-memory-utilization", UTILISATION))
    except ValueError:
        return None
    tokens = int(context[1]) * _UNITS[context[2]] if context else None
    return fit(entry, gpus, None, tokens, utilisation=utilisation)


def _arguments(arguments: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Give options and their values, written as `--a=1` or as `--a` and `1`."""
    for argument, following in pairwise((*arguments, "")):
        name, has_value, value = argument.partition("=")
        if name.startswith("-"):
            yield name, value if has_value else following
