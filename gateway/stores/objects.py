"""Objects as files: one folder, private, shared by the gateways of a host (or of many, on a shared file system)."""

import asyncio
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gateway.errors import StoreUnavailable
from gateway.stores.spool_writer import sync_folder

THREADS = 4  # they wait for the disk, not for one another
DRAFT_PREFIX = ".draft-"
DRAFT_S_MAX = 3600.0  # no write takes that long: its writer died
_NAME = re.compile(r"[a-z]+/[A-Za-z0-9_-]{1,128}")

_Result = TypeVar("_Result")


class FileObjects:
    """
    The ObjectStore on a file system. A file's modification time is when it expires.

    What is not vital leaves *free_bytes_min* of the disk free: a spool may lie on it too.

    A draft is written and synced under another name, then linked to its own: link(2) fails where the name is taken, on
    network file systems too, and nobody sees half a file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        free_bytes_min: int = 0,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.folder = folder
        self._free_bytes_min = free_bytes_min
        self._now_ms = now_ms
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")

    async def put(self, name: str, data: bytes, expires_ms: int, *, is_vital: bool) -> bool:
        return await self._in_thread(self._put, self._path(name), data, expires_ms, is_vital)

    async def get(self, name: str) -> bytes | None:
        return await self._in_thread(self._get, self._path(name))

    async def delete(self, name: str) -> None:
        await self._in_thread(lambda: self._path(name).unlink(missing_ok=True))

    async def sweep(self) -> int:
        return await self._in_thread(self._sweep)

    def close(self) -> None:
        """Let the threads end; what they are at is finished."""
        self._threads.shutdown(wait=False)

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name), f"{name!r} is no name of an object"
        return self.folder / name

    async def _in_thread(self, work: Callable[..., _Result], *args: object) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        except OSError as error:
            raise StoreUnavailable("objects", error.strerror or str(error)) from error

    def _put(self, path: Path, data: bytes, expires_ms: int, is_vital: bool) -> bool:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if self._is_kept(path):
            return False
        if not is_vital and shutil.disk_usage(self.folder).free < self._free_bytes_min + len(data):
            raise OSError(errno.ENOSPC, f"its disk has less than {self._free_bytes_min} bytes to spare")
        draft = path.with_name(DRAFT_PREFIX + secrets.token_hex(8))
        try:
            _write_durably(draft, data, expires_ms)
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
        return True

    def _get(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes() if self._is_kept(path) else None
        except FileNotFoundError:
            return None

    def _is_kept(self, path: Path) -> bool:
        """Tell whether there is something under *path* that has not expired; what has is deleted."""
        try:
            expires_s = path.stat().st_mtime
        except FileNotFoundError:
            return False
        if expires_s * 1000 > self._now_ms():
            return True
        path.unlink(missing_ok=True)
        return False

    def _sweep(self) -> int:
        now_s = self._now_ms() / 1000
        swept = 0
        for path in self.folder.glob("*/*"):
            oldest_s = now_s - DRAFT_S_MAX if path.name.startswith(DRAFT_PREFIX) else now_s
            if _modified_s(path, now_s) <= oldest_s:
                path.unlink(missing_ok=True)
                swept += 1
        return swept


def _write_durably(path: Path, data: bytes, expires_ms: int) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.utime(file.fileno(), (expires_ms / 1000, expires_ms / 1000))
        os.fsync(file.fileno())


def _modified_s(path: Path, otherwise_s: float) -> float:
    """Give a file's modification time; one that was deleted under our eyes counts as fresh."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return otherwise_s + 1
