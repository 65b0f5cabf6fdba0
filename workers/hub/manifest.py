"""
What a model consists of: each file with its size and SHA-256, and where it came from.

A manifest is written by whoever brings a model in and lies beside its files; it is read as something that may be
damaged or hostile: a path that would leave the model's folder is refused here, before anything is written.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from workers.errors import WorkerError
from workers.hub.ids import ModelRef

MANIFEST_FILE = "sluice_manifest.json"
MANIFEST_BYTES_MAX = 16 << 20  # 100,000 files with long names; Qwen's largest model has about 200
FILES_MAX = 100_000
_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH_LENGTH_MAX = 512
_PIN = re.compile(r"[\w][\w.+-]{0,99}")


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """A file of a model: its path below the model's folder, its size in bytes, its SHA-256 in hexadecimal digits."""

    path: str
    size: int
    sha256: str = ""  # empty in a listing of a hub that does not tell it; never in a manifest on disk


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    A model at one commit. *pin* names its folder: the commit, or what stands for it where the source has none.

    *revision* is what was asked for, *source* where it came from, *is_pinned* whether the pin is a commit of the hub.
    """

    id: str
    revision: str
    pin: str
    source: str
    files: tuple[FileEntry, ...]
    is_pinned: bool = True

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(file.size for file in self.files)

    def to_json(self) -> bytes:
        """Write it as the file that lies beside the model."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1).encode() + b"\n"


def digest(files: Iterable[FileEntry]) -> str:
    """Give 12 hexadecimal digits that stand for exactly these files: a pin for a source that names no commit."""
    lines = "".join(f"{file.path}\0{file.size}\0{file.sha256}\n" for file in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest; raises WorkerError that says what is wrong with it."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise WorkerError(f"The manifest has {len(data)} bytes; at most {MANIFEST_BYTES_MAX} are read.")
    try:
        tree = json.loads(data)
        return _manifest(tree)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WorkerError(f"The manifest cannot be read ({type(error).__name__}: {error}).") from error


def _manifest(tree: Mapping[str, Any]) -> Manifest:
    if tree["format"] != _FORMAT:
        raise WorkerError(f"The manifest has format {tree['format']!r}; this version of Sluice reads {_FORMAT}.")
    ref, pin = ModelRef(str(tree["id"]), str(tree["revision"])), str(tree["pin"])
    if not _PIN.fullmatch(pin):
        raise WorkerError(f"The manifest's pin {pin!r} cannot name a folder.")
    files = checked_files(FileEntry(str(f["path"]), int(f["size"]), str(f["sha256"])) for f in tree["files"])
    for file in files:
        if not _SHA256.fullmatch(file.sha256):
            raise WorkerError(f"The manifest has no SHA-256 for {file.path!r}.")
    return Manifest(ref.id, ref.revision, pin, str(tree["source"]), files, bool(tree["is_pinned"]))


def checked_files(files: Iterable[FileEntry]) -> tuple[FileEntry, ...]:
    """Give *files* in order of their paths; raises WorkerError for a path, a size or a hash that cannot be right."""
    entries = sorted(files)
    if not entries or len(entries) > FILES_MAX:
        raise WorkerError(f"A model has between 1 and {FILES_MAX} files, not {len(entries)}.")
    problems = [*_problems(entries), *_collisions([file.path for file in entries])]
    if problems:
        raise WorkerError(problems[0])
    return tuple(entries)


def _problems(entries: Iterable[FileEntry]) -> Iterator[str]:
    for file in entries:
        if not is_safe_path(file.path):
            yield f"The path {file.path[:100]!r} is not one below a model's folder."
        if file.size < 0:
            yield f"{file.path!r} cannot have {file.size} bytes."
        if file.sha256 and not _SHA256.fullmatch(file.sha256):
            yield f"{file.sha256[:80]!r} is not the SHA-256 of {file.path!r}."


def _collisions(paths: list[str]) -> Iterator[str]:
    """Find paths that are there twice (also for a disk that ignores case), or a file and a folder at once."""
    known = {path.casefold() for path in paths}
    if len(known) < len(paths):
        yield "Two files have the same path."
    for path in paths:
        if any(str(parent).casefold() in known for parent in PurePosixPath(path).parents):
            yield f"The path {path!r} lies below another file."


def is_safe_path(path: str) -> bool:
    """Tell whether *path* is relative, normal, printable, stays below its folder and is not the manifest's own."""
    parts = path.split("/")
    return (
        0 < len(path) <= _PATH_LENGTH_MAX
        and path.isprintable()
        and "\\" not in path
        and all(part not in {"", ".", ".."} and len(part.encode()) <= 255 for part in parts)
        and path.casefold() != MANIFEST_FILE
    )
