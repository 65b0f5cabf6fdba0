"""
One puller per model and commit on a host or a shared volume, by files alone.

The lock is a row of files 1, 2, 3 …, one per owner; the highest tells who has it: host, process, since when, how far.
To take it, the next number is created (O_EXCL: exactly one succeeds, on NFS too). An owner renews its file with a
beat; whoever waits counts by its own clock how long the beat stands still, so hosts' clocks need not agree, and takes
the next number from an owner that is silent for EXPIRY_S, or at once from one whose process it can see is gone. An
owner that was only asleep finds a higher number than its own at its next beat and stops: `is_lost`.

After Gray and Cheriton's leases (SOSP 1989), with the numbers as fencing tokens.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workers.errors import WorkerError

BEAT_S = 2.0
EXPIRY_S = 15.0  # seven beats: a host that swaps or an NFS server that restarts is not dead yet
POLL_S = 0.5
_KEPT = 2  # numbers below the highest that are kept, for eyes


class LockLost(WorkerError):  # noqa: N818
    """Somebody else took the lock while this process was asleep; what it did is given up."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has a lock: where it runs, since when (Unix seconds), its beat, and how many bytes of how many are there."""

    host: str = ""
    pid: int = 0
    started: float = 0.0
    kernel: str = ""  # the boot and the PID namespace in which `pid` means something
    born: str = ""  # the process's start in clock ticks: a PID alone may be another's by now
    beat: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    is_released: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended: only what runs under this kernel can be known."""
        return bool(self.kernel) and self.kernel == _kernel() and _born(self.pid) != self.born

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self.started))
        percent = f", {100 * self.bytes_done // self.bytes_total} % there" if self.bytes_total else ""
        return f"process {self.pid} on {self.host} (since {since}{percent})"


class PullLock:
    """The lock in the folder *path*, while this process has it. *progress* is shown to those who wait."""

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        self._number = number
        self._owner = _ourselves()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.is_lost = False
        self._thread = threading.Thread(target=self._beat, name="pull-lock", daemon=True)

    def __repr__(self) -> str:
        return f"<PullLock {self._path.name} no. {self._number}{', lost' if self.is_lost else ''}>"

    def progress(self, bytes_done: int, bytes_total: int) -> None:
        """Tell those who wait how far it is, with the next beat."""
        with self._lock:
            self._owner = replace(self._owner, bytes_done=bytes_done, bytes_total=bytes_total)

    def check(self) -> None:
        """Raise LockLost if somebody else has it by now."""
        if self.is_lost or _highest(self._path) != self._number:
            self.is_lost = True
            raise LockLost(f"Another process took over {self._path.name} while this one was asleep. Run it again.")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a full disk or an NFS server away: the next beat may get through
                self.is_lost = self.is_lost or _highest(self._path) != self._number
                if self.is_lost:
                    return
                self._write(is_released=False)

    def _write(self, *, is_released: bool) -> None:
        with self._lock:
            self._owner = replace(self._owner, beat=self._owner.beat + 1, is_released=is_released)
            _write(self._path / str(self._number), self._owner)

    def _start(self) -> None:
        self._write(is_released=False)
        self._thread.start()

    def _release(self) -> None:
        self._ended.set()
        self._thread.join()
        if not self.is_lost:
            with contextlib.suppress(OSError):
                self._write(is_released=True)
                _clear(self._path, self._number)


@contextmanager
def held(
    path: Path,
    on_wait: Callable[[Owner], None],
    *,
    may_wait: bool = True,
    expiry_s: float = EXPIRY_S,
    poll_s: float = POLL_S,
) -> Iterator[PullLock]:
    """
    Have the lock in the folder *path*; wait for its owner, of whom *on_wait* hears every *poll_s*.

    Released at the end; a process that dies inside is found out by the next. Raises WorkerError if it may not wait.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = _taken(path, on_wait if may_wait else _refusing(path), expiry_s, poll_s)
    lock._start()  # noqa: SLF001
    try:
        yield lock
    finally:
        lock._release()  # noqa: SLF001


def current_owner(path: Path) -> Owner | None:
    """Give who has the lock in *path* right now; None if nobody does, or its process is known to be gone."""
    number = _highest(path)
    owner = _read(path / str(number)) if number else None
    return None if owner is None or owner.is_released or owner.is_gone else owner


def _refusing(path: Path) -> Callable[[Owner], None]:
    def refuse(owner: Owner) -> None:
        raise WorkerError(f"{path.name} is in use by {owner}. Wait for it, or stop it.")

    return refuse


def _taken(path: Path, on_wait: Callable[[Owner], None], expiry_s: float, poll_s: float) -> PullLock:
    seen: tuple[int, int] | None = None
    since = time.monotonic()
    while True:
        number = _highest(path)
        owner = _read(path / str(number)) if number else Owner(is_released=True)
        if (number, owner.beat) != seen:
            seen, since = (number, owner.beat), time.monotonic()
        if owner.is_released or owner.is_gone or time.monotonic() - since > expiry_s:
            if _create(path / str(number + 1)):
                return PullLock(path, number + 1)
            continue
        on_wait(owner)
        time.sleep(poll_s)


def _create(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True


def _highest(path: Path) -> int:
    try:
        return max((int(file.name) for file in path.iterdir() if file.name.isdigit()), default=0)
    except FileNotFoundError:
        return 0


def _read(path: Path) -> Owner:
    """Read who has it; a file that is being written for the first time has an owner of whom nothing is known yet."""
    try:
        tree: dict[str, Any] = json.loads(path.read_text())
        return Owner(**tree)
    except (OSError, ValueError, TypeError):
        return Owner(host="an unknown host")


def _write(path: Path, owner: Owner) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(asdict(owner)))
    draft.replace(path)


def _clear(path: Path, number: int) -> None:
    for file in path.iterdir():
        if file.name.isdigit() and int(file.name) < number - _KEPT:
            file.unlink(missing_ok=True)


def _ourselves() -> Owner:
    pid = os.getpid()
    return Owner(socket.gethostname(), pid, time.time(), _kernel(), _born(pid))


def _kernel() -> str:
    """Name this boot and this PID namespace; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Give the start of a process in clock ticks since boot; empty if there is none, or it has ended (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
