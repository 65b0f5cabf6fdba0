"""The spool's folder on disk, and the file being written in it."""

import fcntl
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

LOCK_NAME = "lock"
SEGMENT_SUFFIX = ".seg"
QUARANTINE = ".quarantine"  # under the spool's root
QUARANTINED_SUFFIX = ".bad"


def make_locked_folder(root: Path, gateway_id: str) -> tuple[Path, int]:
    """
    Make `<gateway_id>-<random>/` under *root* and lock it for life; gives the folder and the lock's descriptor.

    It gets its final name only once locked: under a name starting with a dot, nobody takes it for a dead process's.
    """
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', gateway_id).lstrip('.')}-{secrets.token_hex(4)}"
    hidden = root / f".{name}"
    hidden.mkdir(parents=True, mode=0o700)
    lock = os.open(hidden / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    hidden.rename(root / name)
    sync_folder(root)
    return root / name, lock


def sync_folder(folder: Path) -> None:
    """Make entries of *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def segment_path(folder: Path, number: int) -> Path:
    """Give the path of a segment."""
    return folder / f"{number:08d}{SEGMENT_SUFFIX}"


def free_bytes(folder: Path) -> int:
    """Give what the file system of *folder* has left for ordinary users. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def keep_aside(segment: Path) -> None:
    """Keep a damaged segment for a person to look at, whatever becomes of its folder. Raises OSError."""
    folder = segment.parent
    aside = folder.parent / QUARANTINE / f"{folder.name}-{segment.stem}{QUARANTINED_SUFFIX}"
    aside.parent.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        aside.hardlink_to(segment)


def count_quarantined(root: Path) -> int:
    """Give how many damaged segments are kept under *root* for a person to look at."""
    return sum(1 for _ in (root / QUARANTINE).glob(f"*{QUARANTINED_SUFFIX}"))


class SegmentWriter:
    """
    Appends durably to numbered segments; a new one begins when the current one has *segment_bytes*.

    Used by the spool's writer thread alone.
    """

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._number = 0
        self._file: int | None = None
        self._size = 0

    def append(self, data: bytes) -> int:
        """
        Write *data* to one segment and sync it; gives the segment's number. Raises OSError.

        After an error the file is cut back to its last good byte and never written again: once fdatasync has failed,
        Linux may hold unwritten pages for clean, so a second fdatasync on the same file proves nothing.
        """
        file = self._file if self._file is not None and self._size < self._segment_bytes else self._rotate()
        try:
            _write_all(file, data)
            os.fdatasync(file)
        except OSError:
            self._abandon(file)
            raise
        self._size += len(data)
        return self._number

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _rotate(self) -> int:
        self.close()
        self._number += 1
        self._size = 0
        path = segment_path(self._folder, self._number)
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            sync_folder(self._folder)
        except OSError:
            self._abandon(self._file)
            raise
        return self._file

    def _abandon(self, file: int) -> None:
        with suppress(OSError):
            os.ftruncate(file, self._size)
            if not self._size:
                segment_path(self._folder, self._number).unlink()
        self.close()


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
