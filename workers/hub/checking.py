"""Files on disk against a manifest: every byte by SHA-256, or at a glance by size."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from workers.hub.manifest import MANIFEST_FILE, FileEntry

_BLOCK = 4 << 20
_THREADS = 4  # SHA-256 runs at 1 to 2 GB/s a core and without the interpreter's lock; disks seldom give more than that

Count = Callable[[int], None]


def _ignore(_size: int) -> None:
    pass


def sha256_of(path: Path, count: Count = _ignore) -> str:
    """Give the SHA-256 of a file; *count* is told of the bytes read so far, piece by piece. Raises OSError."""
    hashed = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
            count(len(block))
    return hashed.hexdigest()


def problem_at_a_glance(folder: Path, file: FileEntry) -> str:
    """Say what is wrong with *file* without reading it: missing, not a file, of another size; empty if nothing is."""
    path = folder / file.path
    try:
        size = path.stat().st_size
    except OSError:
        return f"{file.path} is missing"
    if not path.is_file():
        return f"{file.path} is not a file"
    return "" if size == file.size else f"{file.path} has {size} bytes instead of {file.size}"


def problem(folder: Path, file: FileEntry, count: Count = _ignore) -> str:
    """Say what is wrong with *file*, all of which is read; empty if nothing is."""
    if found := problem_at_a_glance(folder, file):
        return found
    try:
        got = sha256_of(folder / file.path, count)
    except OSError as error:
        return f"{file.path} cannot be read ({error.strerror})"
    return "" if got == file.sha256 else f"{file.path} has other bytes (SHA-256 {got[:12]}… not {file.sha256[:12]}…)"


def problems(folder: Path, files: Iterable[FileEntry], count: Count = _ignore) -> dict[str, str]:
    """Read all *files*; give what is wrong, a sentence by path. Blocks for as long as the disk takes."""
    entries = list(files)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda file: problem(folder, file, count), entries)
        return {file.path: text for file, text in zip(entries, found, strict=True) if text}


def strays(folder: Path, files: Iterable[FileEntry]) -> list[Path]:
    """List what lies in *folder* and belongs to no file of the manifest: parts of downloads, locks of the SDK."""
    known = {file.path for file in files} | {MANIFEST_FILE}
    return [path for path in walk(folder) if path.relative_to(folder).as_posix() not in known]


def walk(folder: Path) -> Iterator[Path]:
    """Give every file below *folder*, in order; links count as files."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(root) / name for name in sorted(names))


def hashed(folder: Path, files: Iterable[FileEntry], count: Count = _ignore) -> list[FileEntry]:
    """Give *files* with the SHA-256 of what is on disk where they had none. Raises OSError."""
    entries = list(files)
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(
            pool.map(lambda f: f if f.sha256 else replace(f, sha256=sha256_of(folder / f.path, count)), entries)
        )


def make_durable(folder: Path) -> None:
    """Have every file below *folder* on the disk before this returns: the power may fail after the rename."""
    for path in walk(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
