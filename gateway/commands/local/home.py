"""The home of a local installation: who holds it, its secrets, and the ports it was last given."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gateway.core.ids import new_secret
from gateway.errors import InvalidInput

_Kept = TypeVar("_Kept")

CREDENTIALS = "credentials.json"
PLACE = "up.json"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The secrets of a home, made once, kept in a file that only its owner reads."""

    admin_token: str = field(repr=False)
    worker_token: str = field(repr=False)
    redis_password: str = field(repr=False)
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an installation listens; written at each start, read by the other verbs."""

    pid: int
    host: str
    port: int
    redis_port: int | None
    model: str

    @property
    def url(self) -> str:
        """Where this machine reaches the gateway."""
        return f"http://{reachable(self.host)}:{self.port}"


def reachable(host: str) -> str:
    """Give an address to connect to for one to listen on."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def make_home(home: Path) -> None:
    """Create *home* with its folders, readable by its owner alone. Raises InvalidInput if that is not possible."""
    try:
        for folder in (home, home / "logs", home / "redis"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "up.lock").open("a").close()
    except OSError as error:
        raise InvalidInput(
            f"The home {home} is not writable ({error.strerror}). Choose another folder with --home."
        ) from error


@contextlib.contextmanager
def held(home: Path) -> Iterator[None]:
    """Hold *home* while the block runs. Raises InvalidInput naming the process that holds it already."""
    with (home / "up.lock").open("a+") as lock:  # closed, and so released, by the kernel when this process dies
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise InvalidInput(
                f"The home {home} is in use by process {lock.read().strip()}: another `sluice up`. "
                f"Stop it with Ctrl-C or `kill` first, or choose another folder with --home."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def load_credentials(home: Path) -> Credentials | None:
    """Read the secrets of *home*; None before its first start."""
    kept = _read_json(home / CREDENTIALS)
    return _build(Credentials, kept, home / CREDENTIALS) if kept is not None else None


def load_or_make_credentials(home: Path) -> Credentials:
    """Read the secrets of *home*; make them at the first start."""
    if kept := load_credentials(home):
        return kept
    made = Credentials(
        admin_token=secrets.token_urlsafe(32),
        worker_token=secrets.token_urlsafe(32),
        redis_password=secrets.token_urlsafe(32),
        api_key=new_secret(),
    )
    save_credentials(home, made)
    return made


def save_credentials(home: Path, credentials: Credentials) -> None:
    """Keep the secrets of *home*."""
    write_private(home / CREDENTIALS, json.dumps(asdict(credentials), indent=2))


def save_place(home: Path, place: Place) -> None:
    """Note where the installation listens."""
    write_private(home / PLACE, json.dumps(asdict(place), indent=2))


def load_place(home: Path) -> Place | None:
    """Read where the installation of *home* listens, or listened last; None if it never started."""
    kept = _read_json(home / PLACE)
    return _build(Place, kept, home / PLACE) if kept is not None else None


def write_private(path: Path, text: str) -> None:
    """Replace the file at *path* in one step by one that only its owner reads."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path) from error


def _build(kind: type[_Kept], kept: Any, path: Path) -> _Kept:
    try:
        return kind(**kept)
    except TypeError as error:  # no mapping, or other fields than ours
        raise _damaged(path) from error


def _damaged(path: Path) -> InvalidInput:
    return InvalidInput(f"{path} cannot be read. Move it away; a new one is made at the next start.")
