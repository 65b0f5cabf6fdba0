"""
The ModelScope SDK in a process of its own: lists a model's files at a commit and downloads them into a folder.

`python -m workers.hub.sdk` reads one JSON line from standard input, {"id", "revision"}, answers with the listing, and
after a second line, {"folder", "files"}, downloads those. Each answer is a JSON line with an "event". It ends when
its standard input does, so it never outlives whoever asked. The token comes in MODELSCOPE_API_TOKEN and goes nowhere
but to the hub. What the SDK does well (ranges, resuming, hashing as it writes) is left to it; how often and how long
to try again is decided here, because the SDK counts its tries per file and not since the last byte that came.
"""

import errno
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workers.hub.ids import ModelRef

# Read by the SDK when it is imported. One layer of tries, ours; Retry-After is obeyed as it is; no end but ours.
SDK_ENVIRONMENT = {
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
    "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "3600",
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": str(7 * 24 * 3600),
    "MODELSCOPE_DOWNLOAD_FILE_LOCK": "false",  # workers/hub/lock.py has the whole model
    "MODELSCOPE_LOG_LEVEL": "40",
    "TQDM_DISABLE": "1",
}
FILES_AT_ONCE = 8
TRIES = 6  # without a single new byte; a connection that is cut but brings some may be cut for ever
LISTING_TRIES = 3  # of a small answer: a network that is not there is told soon
PAUSE_S_MAX = 30.0
PAUSE_S_ASKED_MAX = 3600.0  # a Retry-After above this is told and left to the caller
_REPORT_S = 0.3
_FATAL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class _Report:
    """Writes events, one line each; counts the bytes that are there, by file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done: dict[str, int] = {}

    def tell(self, event: str, **fields: Any) -> None:
        with self._lock:
            sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
            sys.stdout.flush()

    def add(self, path: str, size: int) -> None:
        with self._lock:
            self.done[path] = self.done.get(path, 0) + size

    def total(self) -> int:
        with self._lock:
            return sum(self.done.values())

    def every(self, period_s: float, ended: threading.Event) -> None:
        while not ended.wait(period_s):
            self.tell("progress", bytes_done=self.total())


def main() -> None:
    """Answer one caller."""
    os.environ.update(SDK_ENVIRONMENT)
    logging.disable(logging.CRITICAL)
    report = _Report()
    asked = json.loads(sys.stdin.readline())
    try:
        _serve(asked, report)
    except Exception as error:  # noqa: BLE001  the edge: whatever the SDK raises becomes an event
        report.tell("error", **described(error))
    os._exit(0)  # the thread that waits for the end of standard input would hold up a regular one


def _serve(asked: dict[str, Any], report: _Report) -> None:
    try:
        from modelscope_hub.api import HubApi  # noqa: PLC0415  needed in this process only
    except ImportError:
        report.tell("error", kind="missing")
        return
    api = HubApi(endpoint=asked.get("endpoint") or None)
    _list(api, asked["id"], asked["revision"], report)
    wanted = json.loads(sys.stdin.readline() or "{}")
    threading.Thread(target=_end_with_caller, daemon=True).start()
    if wanted:
        _download(api, asked["id"], wanted, report)
        report.tell("done", bytes_done=report.total())


def _end_with_caller() -> None:
    while sys.stdin.readline():
        pass
    os._exit(1)


def _list(api: Any, model: str, revision: str, report: _Report) -> None:
    for tries in range(1, LISTING_TRIES + 1):
        try:
            report.tell("listing", **_listing(api, model, revision))
        except Exception as error:  # noqa: BLE001  the SDK's errors and those of what it is made of
            _pause_or_raise({"": error}, tries, LISTING_TRIES, report)
        else:
            return


def _listing(api: Any, model: str, revision: str) -> dict[str, Any]:
    """List a model's files at the commit that *revision* means now: the listing of a branch may change under us."""
    commit = ModelRef(model, revision).commit or _commit(api, model, revision)
    files = api.list_repo_files(model, "model", revision=commit or revision)
    return {
        "commit": commit,
        "endpoint": api.legacy.endpoint,
        "files": [[f.path, f.size, (f.sha256 or "").lower()] for f in files if not f.is_dir and f.path],
    }


def _commit(api: Any, model: str, revision: str) -> str:
    """Ask which commit a branch or a tag means; the SDK's own listing drops this part of the hub's answer."""
    client = api.legacy
    answer = client._request_repo_tree(  # noqa: SLF001  what `list_repo_files` calls, which keeps only the files
        f"models/{model}/repo/files",
        {"Revision": revision, "Recursive": "False"},
        repo_id=model,
        authorized=False,
    ).json()
    committer = (answer.get("Data") or {}).get("LatestCommitter") or {}
    return ModelRef(model, str(committer.get("Id") or "unknown")).commit


def _download(api: Any, model: str, wanted: dict[str, Any], report: _Report) -> None:
    """Download until every file is there, as long as something comes; raises what stands in the way."""
    folder = Path(wanted["folder"])
    ended = threading.Event()
    threading.Thread(target=report.every, args=(_REPORT_S, ended), daemon=True).start()
    tries, most = 0, -1
    try:
        while failures := _round(api, model, wanted, folder, report):
            tries, most = (1, report.total()) if report.total() > most else (tries + 1, most)
            _pause_or_raise(failures, tries, TRIES, report)
    finally:
        ended.set()


def _pause_or_raise(failures: dict[str, BaseException], tries: int, tries_max: int, report: _Report) -> None:
    """Wait before the next try, and say so; raise the failure that no further one can help against."""
    _raise_if_final(failures)
    pause_s = _pause_s(failures, tries)
    first = next(iter(failures.values()))
    if tries >= tries_max or pause_s > PAUSE_S_ASKED_MAX:
        raise first
    report.tell("pause", seconds=pause_s, **described(first))
    time.sleep(pause_s)


def _round(api: Any, model: str, wanted: dict[str, Any], folder: Path, report: _Report) -> dict[str, BaseException]:
    """Try every file that is not there yet once; give what failed, by path."""
    from modelscope_hub.errors import FileDownloadError  # noqa: PLC0415

    missing = [f for f in wanted["files"] if not _is_there(folder / f[0], f[1])]
    report.done = {f[0]: f[1] for f in wanted["files"] if f not in missing}
    if not missing:
        return {}
    try:
        api.download_repo(
            model,
            "model",
            revision=wanted["revision"],
            local_dir=folder,
            cache_dir=folder.parent,
            max_workers=FILES_AT_ONCE,
            file_list=_entries(missing),
            progress_callbacks=[_callback(report)],
        )
    except FileDownloadError as error:
        return dict(error.failed_files) or {"": error}
    return {}


def _is_there(path: Path, size: int) -> bool:
    """Tell whether a file came whole: the SDK gives it its name when it has all bytes and their hash is right."""
    return path.is_file() and path.stat().st_size == size


def _entries(files: Iterable[list[Any]]) -> list[dict[str, Any]]:
    return [{"Path": path, "Size": size, "Sha256": sha256, "Type": "blob"} for path, size, sha256 in files]


def _callback(report: _Report) -> type:
    from modelscope_hub._download import ProgressCallback  # noqa: PLC0415

    class Count(ProgressCallback):
        def update(self, size: int) -> None:
            report.add(self.filename, size)

    return Count


def _raise_if_final(failures: dict[str, BaseException]) -> None:
    """Raise what no further try can help against."""
    for error in failures.values():
        code = getattr(error, "status_code", None)
        retryable = bool(getattr(error, "retryable", False)) or code in {408, 425, 429} or (code or 0) >= 500
        is_wrong_bytes = type(error).__name__.startswith("File")  # the SDK itself tried those three times
        if isinstance(error, OSError) and error.errno in _FATAL_ERRNO:
            raise error
        if is_wrong_bytes or not (retryable or isinstance(error, OSError)):
            raise error


def _pause_s(failures: dict[str, BaseException], tries: int) -> float:
    """Wait as long as the hub asks for, or a second, two, four … while nothing comes."""
    asked = [float(getattr(error, "retry_after", None) or 0) for error in failures.values()]
    return max(*asked, 0.0) or min(PAUSE_S_MAX, 0.25 * 2**tries)


def described(error: BaseException) -> dict[str, Any]:
    """Say what an error of the SDK is, in plain values and without the addresses and bodies that it quotes."""
    return {
        "kind": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "errno": error.errno if isinstance(error, OSError) else None,
        "retry_after_s": getattr(error, "retry_after", None),
        "text": str(getattr(error, "message", "") or error).splitlines()[0][:200] if str(error) else "",
    }


if __name__ == "__main__":
    main()
