"""
The folder an engine serves: the tiny model made, a ModelScope model pulled, a local one taken as it is.

What needs torch, or takes hours, runs in a process of its own: here torch would stay in memory for good, and neither
could be stopped half-way.
"""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from workers.errors import WorkerError
from workers.hub.client import Hub
from workers.hub.modelscope import hub_ref, local_folder
from workers.hub.pull import ask
from workers.hub.tiny import is_complete

TINY = "tiny"


@dataclass(frozen=True, slots=True)
class Models:
    """Where models are and come from: the worker's home, the folder of pulled models (empty: under home), the hub."""

    home: Path
    folder: str = ""
    hub: Hub = field(default_factory=Hub)
    revision: str = ""

    @property
    def store(self) -> Path:
        return Path(self.folder) if self.folder else self.home / "models" / "hub"


async def prepare_model(model: str, models: Models) -> str:
    """Give the folder of *model*; raises WorkerError with one clear sentence."""
    if model == TINY:
        folder = models.home / "models" / TINY
        return str(folder) if is_complete(folder) else await _in_own_process("workers.hub.tiny", str(folder))
    if (local := local_folder(model)) is not None:
        return str(local.resolve())
    hub_ref(model, models.revision or None)
    question = ask(model, models.revision or None, models.store, models.hub)
    return await _in_own_process("workers.hub.pull", question=question)


async def _in_own_process(module: str, *arguments: str, question: str = "") -> str:
    """Run *module*, which ends with a JSON line; its progress goes to our standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await process.communicate(f"{question}\n".encode())
    finally:
        if process.returncode is None:
            process.kill()
    return _path_in(output, module)


def _path_in(output: bytes, module: str) -> str:
    try:
        answer: dict[str, str] = json.loads(output.decode().strip().rpartition("\n")[2])
    except ValueError as error:
        raise WorkerError(f"{module} failed; its error is above.") from error
    if "error" in answer:
        raise WorkerError(answer["error"])
    return answer["path"]
