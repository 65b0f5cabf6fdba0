"""
Where a model's files are: a local folder as it is, or a ModelScope id downloaded into the cache.

As a command, `python -m workers.hub.modelscope MODEL CACHE` ends with one JSON line: {"path": …} or {"error": …}.
"""

import json
import re
import sys
from pathlib import Path

from workers.errors import WorkerError

# An id is owner/name; anything that starts with a dot or a slash, or has more parts, can only be a path.
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(model: str, cache: Path) -> Path:
    """
    Give the folder that holds *model*, downloading it into *cache* with the SDK's progress bars if need be.

    Blocks for as long as the download takes. Raises WorkerError with one sentence that says what to do.
    """
    if (folder := local_folder(model)) is not None:
        return folder
    if not _MODEL_ID.fullmatch(model):
        raise WorkerError(
            f"There is no folder {model!r}, and it is not a ModelScope id either. "
            "Name a folder that holds config.json, an id such as Qwen/Qwen3-0.6B, or `tiny`."
        )
    return _checked(_download(model, cache))


def local_folder(model: str) -> Path | None:
    """Give *model* as a folder if it is one; raises WorkerError if it is one without a model in it."""
    folder = Path(model).expanduser()
    return _checked(folder) if folder.is_dir() else None


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise WorkerError(
            f"The folder {folder} holds no config.json, so it is not a model. "
            "Point --model at the folder with config.json, the tokenizer and the weights."
        )
    return folder


def _download(model: str, cache: Path) -> Path:
    try:
        from modelscope.hub.snapshot_download import snapshot_download  # noqa: PLC0415 (takes seconds to import)
    except ImportError as error:
        raise WorkerError(
            f"{model!r} is no local folder, and the ModelScope SDK that would download it is not installed. "
            "Install the extra worker-cpu or worker-gpu, or give a folder."
        ) from error
    try:
        return Path(snapshot_download(model, cache_dir=str(cache)))
    except Exception as error:  # the SDK's errors have no base of their own
        raise WorkerError(
            f"The model {model!r} could not be downloaded from ModelScope into {cache} ({_short(error)}). "
            "Check the id and the network, or give a folder that holds the model."
        ) from error


def _short(error: Exception) -> str:
    """Give the first line of *error*, without the address the SDK puts into it."""
    if "NameResolution" in str(error) or "Connection" in type(error).__name__ + str(error):
        return "no connection to ModelScope"
    first = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return first[0][:160]


def main() -> None:
    """Resolve the model named on the command line."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m workers.hub.modelscope MODEL CACHE")
    try:
        answer = {"path": str(resolve(sys.argv[1], Path(sys.argv[2])))}
    except WorkerError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main()
