"""The engine as a child process: started under its guard, stopped whole, its leftovers of a crash cleared away."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

from workers.agent import guard
from workers.engines.launch import Launch

_LOG_BYTES_MAX = 20 << 20  # above this a start begins a new log and keeps one old one
_TAIL_BYTES = 64 << 10
_CREATED_TOLERANCE_S = 0.05  # psutil's creation times are whole clock ticks


class EngineProcess:
    """
    A running engine with everything below it, one process group.

    *record* is a file that lets the next agent find the group should this agent and the guard be killed together.
    """

    def __init__(self, process: asyncio.subprocess.Process, record: Path, log: Path, log_offset: int) -> None:
        self._process = process
        self._record = record
        self._log = log
        self._log_offset = log_offset

    @classmethod
    async def start(cls, launch: Launch, record: Path, log: Path) -> "EngineProcess":
        """Start *launch*, its output appended to *log*; the folders must exist."""
        _rotate(log)
        with log.open("ab") as output:
            offset = output.tell()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", guard.__file__, *launch.argv),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(launch.env),
                start_new_session=True,
            )
        _write_record(record, process.pid)
        return cls(process, record, log, offset)

    @property
    def pid(self) -> int:
        """The guard's process id, which is also the group's."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end; give the exit status, -n if signal n caused it."""
        status = await self._process.wait()
        return 128 - status if status > 128 else status

    async def ask_to_end(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Send SIGTERM and wait for the end, for *grace_s* at most and no longer once *hurry* is set."""
        if self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        ends = [asyncio.ensure_future(self._process.wait()), asyncio.ensure_future(hurry.wait())]
        _, pending = await asyncio.wait(ends, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()

    async def kill(self) -> None:
        """End the engine and all below it at once. Safe to call twice."""
        assert self._process.stdin is not None, "the guard is started with a pipe"
        self._process.stdin.close()  # the guard takes this as the order to kill
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a guard that was killed cannot do it
        await self._process.wait()
        self._record.unlink(missing_ok=True)

    def log_tail(self) -> str:
        """Give the end of what this engine, not one before it, has written."""
        with self._log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_offset, size - _TAIL_BYTES))
            return file.read().decode(errors="replace")


def clear_leftovers(records: Path) -> list[int]:
    """Kill the engines that *records* name and whose agents are gone; give the groups that were killed."""
    cleared = []
    for path in records.glob("*.engine.json"):
        record = _read_record(path)
        if record is None or record.get("namespace") != _namespace():
            path.unlink(missing_ok=True)  # another boot or another container: nothing of it can be here
        elif not _is_alive(record["agent"], record["agent_created_s"]):
            if _kill_group(record["group"], record["agent_created_s"]):
                cleared.append(record["group"])
            path.unlink(missing_ok=True)
    return cleared


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))


def _write_record(path: Path, group: int) -> None:
    agent = psutil.Process()
    record = {"group": group, "agent": agent.pid, "agent_created_s": agent.create_time(), "namespace": _namespace()}
    path.write_text(json.dumps(record))


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if {"group", "agent", "agent_created_s"} <= record.keys() else None


def _namespace() -> str:
    """Name the boot and the container that process ids belong to."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    container = Path("/proc/self/ns/pid")
    return f"{boot.read_text().strip() if boot.exists() else ''} {container.readlink() if container.exists() else ''}"


def _is_alive(pid: int, created_s: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - created_s) < _CREATED_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False


def _kill_group(group: int, agent_created_s: float) -> bool:
    """Kill the members of *group* that are younger than the agent that started it; tell whether there were any."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.create_time() >= agent_created_s:
                process.kill()
                members.append(process)
    psutil.wait_procs(members, timeout=5)
    return bool(members)
