"""
The folder an engine serves: the tiny model made, a ModelScope model pulled, a local one taken as it is.

What needs torch, or takes hours, runs in a process of its own: here torch would stay in memory for good, and neither
could be stopped half-way.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


def is_here(model: str) -> bool:
    """Tell whether *model* is a folder, or made on the spot: nothing is asked of a hub."""
    return model == TINY or local_folder(model) is not None


async def prepare_model(model: str, models: Models, on_bytes: Callable[[int, int], None] = lambda _, __: None) -> str:
    """
    Give the folder of *model*; raises WorkerError with one clear sentence.

    *on_bytes* is told about once a second how many bytes are there, of how many.
    """
    if model == TINY:
        folder = models.home / "models" / TINY
        return str(folder) if is_complete(folder) else await _in_own_process("workers.hub.tiny", str(folder))
    if (local := local_folder(model)) is not None:
        return str(local.resolve())
    hub_ref(model, models.revision or None)
    question = ask(model, models.revision or None, models.store, models.hub)
    return await _in_own_process("workers.hub.pull", question=question, on_bytes=on_bytes)


async def _in_own_process(
    module: str, *arguments: str, question: str = "", on_bytes: Callable[[int, int], None] = lambda _, __: None
) -> str:
    """Run *module*, which writes JSON lines, the last one its answer; its bars go to our standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None, "asked for above"
    assert process.stdout is not None, "asked for above"
    said: dict[str, Any] = {}
    try:
        process.stdin.write(f"{question}\n".encode())
        process.stdin.close()
        async for line in process.stdout:
            said = _read(line)
            if "bytes_total" in said:
                on_bytes(said["bytes_done"], said["bytes_total"])
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    return _path_in(said, module)


def _read(line: bytes) -> dict[str, Any]:
    """Read a line; one of a library that prints is none."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _path_in(answer: dict[str, Any], module: str) -> str:
    if "error" in answer:
        raise WorkerError(answer["error"])
    if "path" not in answer:
        raise WorkerError(f"{module} failed; its error is above.")
    return str(answer["path"])
