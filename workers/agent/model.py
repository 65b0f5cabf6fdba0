"""
The folder an engine serves: the tiny model made, a ModelScope model downloaded, a local one taken as it is.

What needs torch or the SDK runs in a process of its own: here it would stay in memory for good, and could not be
stopped half-way.
"""

import asyncio
import json
import sys
from pathlib import Path

from workers.errors import WorkerError
from workers.hub.modelscope import local_folder
from workers.hub.tiny import is_complete

TINY = "tiny"


async def prepare_model(model: str, home: Path) -> str:
    """Give the folder of *model*; raises WorkerError with one clear sentence."""
    models = home / "models"
    if model == TINY:
        folder = models / TINY
        return str(folder) if is_complete(folder) else await _in_own_process("workers.hub.tiny", str(folder))
    if (local := local_folder(model)) is not None:
        return str(local.resolve())
    return await _in_own_process("workers.hub.modelscope", model, str(models / "modelscope"))


async def _in_own_process(module: str, *arguments: str) -> str:
    """Run *module*, which ends with a JSON line; its progress bars go to our standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await process.communicate()
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
