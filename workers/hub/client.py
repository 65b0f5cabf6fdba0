"""The caller's side of the SDK's process: asks it, reads its events, turns its errors into sentences."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.errors import WorkerError
from workers.hub.ids import ModelRef
from workers.hub.manifest import FileEntry, checked_files
from workers.hub.sdk import SDK_ENVIRONMENT
from workers.hub.troubles import sentence


@dataclass(frozen=True, slots=True)
class Hub:
    """Which hub, and as whom. *endpoint* empty: the SDK's own choice (MODELSCOPE_ENDPOINT, else modelscope.cn)."""

    endpoint: str = ""
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """A model's files at *commit*, which is empty where the hub does not tell it; *source* is the hub's address."""

    ref: ModelRef
    commit: str
    source: str
    files: tuple[FileEntry, ...]

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(file.size for file in self.files)


class Session:
    """A running process of the SDK, for one model."""

    def __init__(self, process: subprocess.Popen[str], hub: Hub, ref: ModelRef) -> None:
        self._process, self._hub, self._ref = process, hub, ref

    def listing(self, on_pause: Callable[[str], None]) -> Listing:
        """List the model's files; *on_pause* hears why it takes longer. Raises WorkerError with what to do."""
        self._ask({"id": self._ref.id, "revision": self._ref.revision, "endpoint": self._hub.endpoint})
        for event in self._events():
            if event["event"] == "listing":
                files = checked_files(FileEntry(*entry) for entry in event["files"])
                return Listing(self._ref, event["commit"], event["endpoint"], files)
            if event["event"] == "error":
                raise self._error(event)
            on_pause(self.why(event))
        raise self._crashed()

    def download(self, folder: Path, listing: Listing, files: Iterable[FileEntry]) -> Iterator[dict[str, Any]]:
        """Download *files* into *folder*; give the events "progress" and "pause" as they come. Raises WorkerError."""
        wanted = [[file.path, file.size, file.sha256] for file in files]
        self._ask({"folder": str(folder), "revision": listing.commit or self._ref.revision, "files": wanted})
        for event in self._events():
            if event["event"] == "error":
                raise self._error(event)
            yield event
            if event["event"] == "done":
                return
        raise self._crashed()

    def why(self, event: dict[str, Any]) -> str:
        """Say in a sentence why there is a pause, and how long."""
        what = "too many requests (429)" if event["status"] == 429 else event["status"] or event["kind"]
        return f"ModelScope: {what}; going on in {event['seconds']:.1f} s"

    def stop(self) -> None:
        """End the process at once; what it has written stays."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _ask(self, question: dict[str, Any]) -> None:
        assert self._process.stdin is not None, "the process was started with pipes"
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._crashed() from error

    def _events(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None, "the process was started with pipes"
        for line in self._process.stdout:
            if line.startswith("{"):  # a library may print what it likes
                yield json.loads(line)

    def _error(self, event: dict[str, Any]) -> WorkerError:
        return WorkerError(sentence(self._ref, event, has_token=bool(self._hub.token)))

    def _crashed(self) -> WorkerError:
        status = self._process.poll()
        return WorkerError(
            f"The process that downloads {self._ref} ended in mid-work (exit status {status}). "
            "Run it again: what is there is kept and taken up. Output of it is above, if it left any."
        )


@contextmanager
def session(hub: Hub, ref: ModelRef) -> Iterator[Session]:
    """Run the SDK for one model; its process ends with the block, or with this process, however that ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.hub.sdk"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(hub),
        start_new_session=True,  # Ctrl-C reaches us, and we end it: never half a line
    )
    running = Session(process, hub, ref)
    try:
        yield running
    finally:
        running.stop()


def _environment(hub: Hub) -> dict[str, str]:
    """Give the SDK what it reads when it starts; a token of ours goes before one that it kept at a login."""
    environ = {**os.environ, **SDK_ENVIRONMENT}
    if hub.token:
        environ["MODELSCOPE_API_TOKEN"] = hub.token
    return environ
