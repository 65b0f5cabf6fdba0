"""What `--model` names: a local folder as it is, or a model of ModelScope that is brought onto this disk."""

from pathlib import Path

from workers.errors import WorkerError
from workers.hub.client import Hub
from workers.hub.ids import ModelRef, is_model_id, parse_ref
from workers.hub.progress import Progress, Silence
from workers.hub.pull import Pull, ensure
from workers.hub.store import ModelStore

# What every model has, or a diffusion pipeline, or a LoRA adapter.
_WHAT_IT_IS = ("config.json", "model_index.json", "adapter_config.json")


def resolve(
    model: str, store: Path, hub: Hub | None = None, revision: str | None = None, progress: Progress | None = None
) -> Path:
    """
    Give the folder that holds *model*, pulling it into the folder *store* if it is not there.

    Blocks for as long as the download takes. Raises WorkerError with one sentence that says what to do.
    """
    if (folder := local_folder(model)) is not None:
        return folder
    wish = Pull(hub_ref(model, revision), ModelStore(store), hub or Hub(), progress or Silence())
    return checked_folder(ensure(wish).folder)


def hub_ref(model: str, revision: str | None = None) -> ModelRef:
    """Read *model* as an id on ModelScope, because it is no folder. Raises WorkerError if it can be none."""
    if not is_model_id(model.partition("@")[0]):
        raise WorkerError(
            f"There is no folder {model!r}, and it is not a ModelScope id either. "
            "Name a folder that holds config.json, an id such as Qwen/Qwen3-0.6B, or `tiny`."
        )
    return parse_ref(model, revision)


def local_folder(model: str) -> Path | None:
    """Give *model* as a folder if it is one; raises WorkerError if it is one without a model in it."""
    folder = Path(model).expanduser()
    return checked_folder(folder) if folder.is_dir() else None


def checked_folder(folder: Path) -> Path:
    """Give *folder* back; raises WorkerError if no engine could read it as a model."""
    if not any((folder / name).is_file() for name in _WHAT_IT_IS):
        raise WorkerError(
            f"The folder {folder} holds no config.json, so it is not a model. "
            "Point --model at the folder with config.json, the tokenizer and the weights."
        )
    return folder
