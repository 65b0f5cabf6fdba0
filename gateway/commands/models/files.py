"""Models on this disk: pulled from ModelScope, verified, exported, imported, removed."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from gateway.commands.output import Format, print_record, print_records
from gateway.commands.records import Home
from gateway.errors import InvalidInput, NotFoundError
from gateway.settings import Settings, load_settings
from workers.errors import WorkerError
from workers.hub.archive import export, import_archive, import_folder
from workers.hub.checking import problems, walk
from workers.hub.client import Hub
from workers.hub.ids import parse_ref, size_text
from workers.hub.lock import held
from workers.hub.modelscope import checked_folder, resolve
from workers.hub.progress import watching
from workers.hub.pull import Pull, fetch
from workers.hub.store import ModelStore, Stored

COLUMNS = ("model", "revision", "commit", "files", "bytes", "path")
PIPE = "-"

Model = Annotated[str, typer.Argument(help="Its id on ModelScope, such as Qwen/Qwen3-8B.", metavar="MODEL")]
Revision = Annotated[str | None, typer.Option(help="A branch, a tag or a commit. Default: master, or the only one.")]


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what goes wrong with models into this command's error."""
    try:
        yield
    except WorkerError as error:
        raise InvalidInput(str(error)) from error


def pull(model: Model, revision: Revision = None, home: Home = None, output: Format = "table") -> None:
    """
    Download a model from ModelScope, or what is new of it; ends with the commit that it is pinned to.

    Every byte is verified before the model can be seen. Run again after a break, it goes on where it was; run twice at
    once, on one host or on hosts that share the folder, one downloads and the other waits for it.

    Example: sluice models pull Qwen/Qwen3-8B
    """
    settings = load_settings(home=home)
    with told(), watching() as progress:
        ref = parse_ref(model, revision)
        stored = fetch(Pull(ref, ModelStore(settings.models_dir), hub_of(settings), progress))
    print_record(COLUMNS, record(stored), output)


def verify(
    models: Annotated[list[str] | None, typer.Argument(help="Ids; default: all on this disk.", metavar="MODEL")] = None,
    home: Home = None,
    output: Format = "table",
) -> None:
    """
    Read every byte of models on this disk and compare it with what was pulled. Exit status 1 if any is damaged.

    Example: sluice models verify Qwen/Qwen3-8B
    """
    store = ModelStore(load_settings(home=home).models_dir)
    with told():
        chosen = [_stored(store, model, None) for model in models] if models else list(store.models())
        rows = [_verified(stored) for stored in chosen]
    print_records(("model", "commit", "bytes", "is_right", "problem"), rows, output)
    if not all(row["is_right"] for row in rows):
        raise typer.Exit(1)


def export_model(
    model: Model,
    archive: Annotated[str, typer.Argument(help="The archive to write; - writes to standard output.")],
    revision: Revision = None,
    home: Home = None,
    output: Format = "table",
) -> None:
    """
    Write a model and its checksums as one tar archive, to carry it to where there is no network.

    Example: sluice models export Qwen/Qwen3-8B qwen3-8b.tar
    """
    with told(), watching() as progress:
        stored = _stored(ModelStore(load_settings(home=home).models_dir), model, revision)
        if archive == PIPE:
            export(stored, sys.stdout.buffer, progress)
            return
        with _new_file(Path(archive)) as out:
            export(stored, out, progress)
    print_record((*COLUMNS[:-1], "archive"), {**record(stored), "archive": archive}, output)


def import_model(
    source: Annotated[str, typer.Argument(help="An archive, - for standard input, or a folder with a model.")],
    model: Annotated[
        str | None, typer.Option("--id", help="What to call the model of a folder, such as acme/support-7b.")
    ] = None,
    home: Home = None,
    output: Format = "table",
) -> None:
    """
    Take in a model from an archive of `sluice models export`, or a folder; every byte is verified on the way.

    Example: sluice models import qwen3-8b.tar
    """
    store = ModelStore(load_settings(home=home).models_dir)
    with told(), watching() as progress:
        if source == PIPE:
            stored = import_archive(sys.stdin.buffer, store, progress)
        elif Path(source).is_dir():
            stored = import_folder(checked_folder(Path(source)), _id_for(source, model), store, progress)
        else:
            with _existing_file(Path(source)) as file:
                stored = import_archive(file, store, progress)
    print_record(COLUMNS, record(stored), output)


def remove(model: Model, revision: Revision = None, home: Home = None, output: Format = "table") -> None:
    """
    Delete a model from this disk, and what broken downloads of it left.

    Engines that have loaded it keep running; a worker that starts pulls it again.

    Example: sluice models remove Qwen/Qwen3-8B
    """
    store = ModelStore(load_settings(home=home).models_dir)
    with told():
        parts = 0 if revision else _remove_parts(store, parse_ref(model).id)
        try:
            stored = _stored(store, model, revision)
        except NotFoundError:
            if not parts:
                raise
            typer.echo(f"Deleted {size_text(parts)} that downloads of {model} had left.")
            return
        with held(store.locks(stored.manifest.id, stored.manifest.pin), lambda _owner: None, may_wait=False):
            store.remove(stored)
    print_record(COLUMNS, record(stored), output)


def _remove_parts(store: ModelStore, model_id: str) -> int:
    """Delete the parts of downloads that nobody is at; give how many bytes they had."""
    store.sweep()
    freed = 0
    for pin, folder in store.parts(model_id):
        with held(store.locks(model_id, pin), lambda _owner: None, may_wait=False):
            freed += sum(path.stat().st_size for path in walk(folder))
            shutil.rmtree(folder)
    return freed


def hub_folder(settings: Settings, model: str, revision: str | None = None) -> Path:
    """Give the folder of *model*, a folder itself or an id, which is pulled if it is not here. Raises InvalidInput."""
    with told(), watching() as progress:
        return resolve(model, settings.models_dir, hub_of(settings), revision, progress)


def hub_of(settings: Settings) -> Hub:
    """Give the hub that the settings name."""
    token = settings.hub.token
    return Hub(settings.hub.endpoint, token.get_secret_value() if token else "")


def on_disk(settings: Settings) -> list[dict[str, Any]]:
    """Give the facts of every model on this disk, whether anything is missing at a glance included."""
    return [record(stored) for stored in ModelStore(settings.models_dir).models()]


def record(stored: Stored) -> dict[str, Any]:
    """Give the facts of a model on disk."""
    manifest = stored.manifest
    return {
        "model": manifest.id,
        "revision": manifest.revision,
        "commit": manifest.pin,
        "is_pinned": manifest.is_pinned,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "source": manifest.source,
        "problem": stored.problem,
        "path": str(stored.folder),
    }


def _verified(stored: Stored) -> dict[str, Any]:
    with watching() as progress:
        progress.start(f"verifying {stored.manifest.id}", stored.manifest.size)
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            progress.at(done)

        found = problems(stored.folder, stored.manifest.files, count)
    return {**record(stored), "is_right": not found, "problem": "; ".join(found.values())}


def _stored(store: ModelStore, model: str, revision: str | None) -> Stored:
    """Find a model on this disk: by its revision, or the only one there is of it."""
    ref = parse_ref(model, revision)
    if stored := store.find(ref):
        return stored
    copies = [stored for stored in store.models() if stored.manifest.id == ref.id]
    if len(copies) == 1 and not revision and "@" not in model:
        return copies[0]
    there = ", ".join(stored.manifest.pin for stored in copies) or "none of it"
    raise NotFoundError(
        f"{ref} is not in {store.root}; there is {there}. "
        f"Name one by --revision, or bring it here: sluice models pull {ref.id}"
    )


def _id_for(source: str, model: str | None) -> str:
    if model is None:
        raise InvalidInput(f"{source} is a folder, which has no id of its own. Name one: --id owner/name.")
    return parse_ref(model).id


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that has its name only when it is whole."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        with draft.open("wb") as file:
            yield file
        draft.replace(path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}. Choose a folder with space.") from error
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _existing_file(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}. Name an archive, or a folder.") from error
    with file:
        yield file
