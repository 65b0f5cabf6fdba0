"""
Bring a model from ModelScope onto this disk, once per commit whatever the number of those who want it.

As a command, `python -m workers.hub.pull` reads one JSON line from standard input (the model, the folder, the hub),
writes how far it is, {"bytes_done": …, "bytes_total": …}, and ends with {"path": …} or {"error": …}; a worker's agent
runs it so, to be able to end it half-way.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workers.errors import WorkerError
from workers.hub.checking import hashed, problems, strays
from workers.hub.client import Hub, Listing, Session, session
from workers.hub.ids import ModelRef, parse_ref, size_text
from workers.hub.lock import LockLost, Owner, PullLock, held
from workers.hub.manifest import FileEntry, Manifest, digest
from workers.hub.progress import Progress, Reports, watching
from workers.hub.store import ModelStore, Stored

DISK_RESERVE_BYTES = 256 << 20  # for manifests, locks and everybody else on that disk
_MENDS = 2  # times that files with wrong bytes are fetched again before it is called an error


@dataclass(frozen=True, slots=True)
class Pull:
    """One wish: which model, into which store, from which hub, shown to whom."""

    ref: ModelRef
    store: ModelStore
    hub: Hub
    progress: Progress


def ensure(pull: Pull) -> Stored:
    """
    Give the model from this disk if it is there, without asking the hub; else pull it.

    So a worker that starts again serves the same commit as before, also without a network. Raises WorkerError.
    """
    stored = pull.store.find(pull.ref)
    if stored is None:
        return fetch(pull)
    if problem := stored.problem:
        raise WorkerError(
            f"{pull.ref} in {stored.folder} is damaged: {problem}. "
            f"Remove it (`sluice models remove {pull.ref.id}`), then pull it again."
        )
    return stored


def fetch(pull: Pull) -> Stored:
    """Ask the hub which commit the revision means now, and have that on this disk. Raises WorkerError."""
    try:
        with session(pull.hub, pull.ref) as sdk:
            listing = _listing(pull, sdk)
            pin = listing.commit or f"{pull.ref.revision.replace('/', '+')}-{digest(listing.files)}"
            stored = _present(pull.store, pull.ref.id, pin) or _pulled(pull, sdk, listing, pin)
    except OSError as error:
        raise WorkerError(_io_sentence(pull.store, error)) from error
    pull.store.note(pull.ref, pin)
    return stored


def _listing(pull: Pull, sdk: Session) -> Listing:
    try:
        return sdk.listing(pull.progress.note)
    except WorkerError as error:
        if stored := pull.store.find(pull.ref):
            kept = f" Workers go on with what is on this disk: commit {stored.manifest.pin}."
            raise WorkerError(f"{error}{kept}") from error
        raise


def _present(store: ModelStore, model_id: str, pin: str) -> Stored | None:
    stored = store.find(ModelRef(model_id, pin))
    return stored if stored and not stored.problem else None


def _pulled(pull: Pull, sdk: Session, listing: Listing, pin: str) -> Stored:
    def on_wait(owner: Owner) -> None:
        pull.progress.note(f"{pull.ref} is being downloaded by {owner}; waiting for it")

    with held(pull.store.locks(pull.ref.id, pin), on_wait) as lock:
        if stored := _present(pull.store, pull.ref.id, pin):
            return stored
        draft = pull.store.partial(pull.ref.id, pin)
        draft.mkdir(parents=True, exist_ok=True)
        check_space(pull.store, str(pull.ref), listing.files, draft)
        files = _complete(pull, sdk, listing, draft, lock)
        for stray in strays(draft, files):
            stray.unlink()
        lock.check()
        manifest = Manifest(pull.ref.id, pull.ref.revision, pin, listing.source, files, bool(listing.commit))
        return pull.store.publish(draft, manifest)


def _complete(pull: Pull, sdk: Session, listing: Listing, draft: Path, lock: PullLock) -> tuple[FileEntry, ...]:
    """Download until every byte is right; give the files with their hashes."""
    for _ in range(1 + _MENDS):
        _download(pull, sdk, listing, draft, lock)
        wrong = _wrong(pull, listing, draft, lock)
        if not wrong:
            return tuple(hashed(draft, listing.files))
        for path, text in wrong.items():
            pull.progress.note(f"{text}; fetching it again")
            (draft / path).unlink(missing_ok=True)
    raise WorkerError(
        f"{pull.ref} arrives with wrong bytes time and again ({next(iter(wrong.values()))}). "
        "Check this disk and this machine's memory; if they are well, report it to ModelScope."
    )


def _download(pull: Pull, sdk: Session, listing: Listing, draft: Path, lock: PullLock) -> None:
    pull.progress.start(f"downloading {pull.ref}", listing.size)
    for event in sdk.download(draft, listing, listing.files):
        if lock.is_lost:
            sdk.stop()
            raise LockLost(f"{pull.ref} was taken over by another process while this one was asleep. Run it again.")
        if event["event"] == "pause":
            pull.progress.note(sdk.why(event))
        else:
            pull.progress.at(event["bytes_done"])
            lock.progress(event["bytes_done"], listing.size)


def _wrong(pull: Pull, listing: Listing, draft: Path, lock: PullLock) -> dict[str, str]:
    """Read all that came; the SDK hashed what it wrote, this hashes what the disk gives back."""
    told = [file for file in listing.files if file.sha256]
    pull.progress.start(f"verifying {pull.ref}", sum(file.size for file in told))
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        pull.progress.at(done)

    lock.check()
    return problems(draft, told, count)


def check_space(store: ModelStore, what: str, files: Iterable[FileEntry], draft: Path) -> None:
    """Raise WorkerError if what is still to come of *files* does not fit on the store's disk."""
    total = sum(file.size for file in files)
    there = min(total, sum(path.stat().st_size for path in draft.rglob("*") if path.is_file()))
    free = shutil.disk_usage(store.root).free
    if total - there + DISK_RESERVE_BYTES > free:
        raise WorkerError(
            f"{what} needs {size_text(total - there)} more on the disk of {store.root} (of {size_text(total)}), with "
            f"{size_text(DISK_RESERVE_BYTES)} to spare; {size_text(free)} are free. Free some "
            "(`sluice models list --on-disk`, `sluice models remove`), or choose another folder: SLUICE_HUB__DIR."
        )


def _io_sentence(store: ModelStore, error: OSError) -> str:
    return (
        f"The folder of models {store.root} cannot be used ({error.strerror or error}). Check its permissions and its "
        "space, or choose another with SLUICE_HUB__DIR."
    )


def ask(model: str, revision: str | None, folder: Path, hub: Hub) -> str:
    """Write down a wish for a process of this module: its standard input."""
    return json.dumps(
        {"model": model, "revision": revision, "dir": str(folder), "endpoint": hub.endpoint, "token": hub.token}
    )


def _answer(asked: dict[str, Any]) -> dict[str, str]:
    hub = Hub(asked["endpoint"], asked["token"])
    try:
        with watching() as shown:
            progress = Reports(shown, partial(print, flush=True))
            ref = parse_ref(asked["model"], asked["revision"])
            return {"path": str(ensure(Pull(ref, ModelStore(Path(asked["dir"])), hub, progress)).folder)}
    except WorkerError as error:
        return {"error": str(error)}


def main() -> None:
    """Pull what standard input asks for."""
    answer = _answer(json.loads(sys.stdin.readline()))
    print(json.dumps(answer), flush=True)  # noqa: T201  this is what the caller waits for
    os._exit(0)


if __name__ == "__main__":
    main()
