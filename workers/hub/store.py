"""
The models on a disk: one folder per model and commit, complete and verified, or not there at all.

    DIR/Qwen/Qwen3-8B/<commit>/    the files, and their manifest
    DIR/Qwen/Qwen3-8B/.refs/       which commit a branch or a tag meant when it was last pulled
    DIR/.partial/                  downloads under way, found again by the next attempt
    DIR/.locks/                    who downloads (workers/hub/lock.py)

A folder appears by a rename on the same disk and is never written to afterwards, so a host or a volume that many
share needs no further care: what can be seen can be used.
"""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from workers.errors import WorkerError
from workers.hub.checking import make_durable, problem_at_a_glance
from workers.hub.ids import ModelRef, is_model_id, slug
from workers.hub.manifest import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, parse_manifest

_REFS = ".refs"
_DRAFT_S_MAX = 86_400  # an import that takes a day has long ended or died: a terabyte at 12 MB/s


@dataclass(frozen=True, slots=True)
class Stored:
    """A model on disk: its manifest and its folder."""

    manifest: Manifest
    folder: Path

    @property
    def problem(self) -> str:
        """What is wrong with it at a glance (a file missing or cut), or empty."""
        found = (problem_at_a_glance(self.folder, file) for file in self.manifest.files)
        return next((text for text in found if text), "")


class ModelStore:
    """The models below *root*, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def __repr__(self) -> str:
        return f"<ModelStore {self.root}>"

    def models(self) -> Iterator[Stored]:
        """Give every complete model, in order of ids and pins; a folder without a readable manifest is not one."""
        for folder in sorted(self.root.glob("*/*/*/")):
            if not any(part.startswith(".") for part in folder.relative_to(self.root).parts):
                with contextlib.suppress(WorkerError):
                    yield _read(folder)

    def find(self, ref: ModelRef) -> Stored | None:
        """Give the model that *ref* means on this disk: that commit, or the one its branch or tag was pulled at."""
        pin = self.pin(ref)
        if not pin:
            return None
        with contextlib.suppress(WorkerError):
            return _read(self.folder(ref.id, pin))
        return None

    def pin(self, ref: ModelRef) -> str:
        """Give the pin that *ref* was last pulled at; empty if it never was."""
        try:
            return (self._refs(ref.id) / slug(ref.revision)).read_text().strip()
        except OSError:
            return ref.revision if self.folder(ref.id, ref.revision).is_dir() else ""

    def folder(self, model_id: str, pin: str) -> Path:
        """Where a model at a pin is, or would be."""
        return self.root / model_id / slug(pin)

    def partial(self, model_id: str, pin: str) -> Path:
        """Where the download of a model at a pin is under way, or would be."""
        return self.root / ".partial" / f"{slug(model_id)}@{slug(pin)}"

    def locks(self, model_id: str, pin: str) -> Path:
        """Where who works on a model at a pin is written down."""
        return self.root / ".locks" / f"{slug(model_id)}@{slug(pin)}"

    def publish(self, draft: Path, manifest: Manifest) -> Stored:
        """
        Make the complete, verified *draft* a model that everybody sees, in one step; give it.

        The draft must lie on this disk. If the model is there already, the draft is dropped; if it is there with a
        file missing or cut, the draft takes its place.
        """
        (draft / MANIFEST_FILE).write_bytes(manifest.to_json())
        _make_readable(draft)
        make_durable(draft)
        folder = self.folder(manifest.id, manifest.pin)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_dir() and Stored(manifest, folder).problem:
            self.remove(Stored(manifest, folder))
        try:
            draft.rename(folder)
        except OSError:
            if Stored(manifest, folder).problem:
                raise
            shutil.rmtree(draft, ignore_errors=True)  # somebody else was faster, with the same bytes
        return Stored(manifest, folder)

    def note(self, ref: ModelRef, pin: str) -> None:
        """Write down that *ref* means *pin* from now on."""
        if ref.revision != pin:
            refs = self._refs(ref.id)
            refs.mkdir(parents=True, exist_ok=True)
            draft = refs / f".{secrets.token_hex(4)}"
            draft.write_text(pin)
            draft.replace(refs / slug(ref.revision))

    def remove(self, stored: Stored) -> None:
        """Take a model away: out of sight in one step, then its bytes. Engines that have it loaded keep running."""
        trash = self.root / ".partial" / f".removed-{secrets.token_hex(4)}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        stored.folder.rename(trash)
        self._forget(stored.manifest.id, stored.manifest.pin)
        shutil.rmtree(trash, ignore_errors=True)
        for folder in (stored.folder.parent, stored.folder.parent.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if nothing is left in it

    def parts(self, model_id: str) -> list[tuple[str, Path]]:
        """List what downloads of a model left or have under way: the pin, and the folder of the parts."""
        folders = (self.root / ".partial").glob(f"{slug(model_id)}@*")
        return [(unquote(folder.name.partition("@")[2]), folder) for folder in sorted(folders)]

    def sweep(self) -> None:
        """Delete what nobody can be at work on: what was removed, and drafts of imports that are a day old."""
        drafts = (self.root / ".partial").glob(".*")
        for draft in drafts:
            with contextlib.suppress(OSError):
                if draft.name.startswith(".removed-") or time.time() - draft.stat().st_mtime > _DRAFT_S_MAX:
                    shutil.rmtree(draft)

    def _forget(self, model_id: str, pin: str) -> None:
        refs = self._refs(model_id)
        for path in refs.glob("*"):
            if path.read_text().strip() == pin:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            refs.rmdir()

    def _refs(self, model_id: str) -> Path:
        return self.root / model_id / _REFS


def _read(folder: Path) -> Stored:
    path = folder / MANIFEST_FILE
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise WorkerError(f"{path} is too large for a manifest.")
        manifest = parse_manifest(path.read_bytes())
    except OSError as error:
        raise WorkerError(f"{folder} holds no manifest ({error.strerror}).") from error
    assert is_model_id(manifest.id), manifest.id
    return Stored(manifest, folder)


def _make_readable(folder: Path) -> None:
    """Let everybody read: the engine may run as someone else than who downloads."""
    for root, _, names in os.walk(folder):
        Path(root).chmod(0o755)
        for name in names:
            (Path(root) / name).chmod(0o644)
