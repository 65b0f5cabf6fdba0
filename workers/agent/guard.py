"""
The guard between an agent and its engine: nothing of the engine outlives either of them.

vLLM's EngineCore and its workers live on, holding memory or a GPU, when the API server above them is killed. So the
guard starts the engine in its own process group, adopts whatever is orphaned below it, and kills the rest as soon as
the engine ends or the agent goes away, which it notices by the end of its standard input. Should the guard itself be
killed, the engine dies with it by its parent-death signal, and the agent kills the group.

Run as a script, with nothing but the standard library: python guard.py COMMAND… It ends with the engine's exit status,
128 + n if signal n ended it. SIGTERM is passed on to the engine.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def main() -> None:
    """Run the command given as arguments, guarded."""
    wake = _wake_on_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    try:
        engine = subprocess.Popen(  # noqa: S603 (the agent's own command line)
            sys.argv[1:],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _die_with(guard),  # noqa: PLW1509 (there is one thread)
        )
    except OSError as error:
        sys.exit(f"cannot start {sys.argv[1]}: {error}")
    status = _wait(engine.pid, wake)
    _kill_rest()
    os._exit(status)


def _wait(engine: int, wake: int) -> int:
    """Wait for the engine's end or the agent's; give the status to end with."""
    while True:
        readable, _, _ = select.select([sys.stdin, wake], [], [])
        if sys.stdin in readable and not os.read(sys.stdin.fileno(), 1):
            return 128 + signal.SIGKILL
        if wake in readable and signal.SIGTERM in os.read(wake, 64):
            os.kill(engine, signal.SIGTERM)
        for pid, status in _reaped():
            if pid == engine:
                return status


def _reaped() -> Iterator[tuple[int, int]]:
    """Collect children that have ended, adopted ones too."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        yield pid, code if code >= 0 else 128 - code


def _kill_rest() -> None:
    """Kill all that is left of the group and all adopted children, until none is left."""
    while victims := [pid for pid in _relatives() if pid != os.getpid()]:
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for _ in _reaped():
            pass
        time.sleep(0.01)  # the dying need a moment; their children come to us only then


def _relatives() -> Iterator[int]:
    """List living processes of this group or with this process as their parent."""
    me, group = os.getpid(), os.getpgrp()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state, parent, its_group = _stat(entry)
            if state != "Z" and (parent == me or its_group == group):
                yield int(entry.name)


def _stat(process: Path) -> tuple[str, int, int]:
    """Read state, parent and group of a process; the fields follow its name, which is in brackets."""
    try:
        text = (process / "stat").read_text(encoding="utf-8", errors="replace")
        state, parent, group = text.rpartition(")")[2].split()[:3]
    except OSError:
        return "Z", 0, 0  # gone meanwhile
    return state, int(parent), int(group)


def _wake_on_signals() -> int:
    """Have SIGCHLD and SIGTERM written to a pipe; give its reading end. An interrupt from the terminal is not ours."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return reading


def _die_with(guard: int) -> None:
    """In the engine, before it is the engine: end when the guard ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # it ended before we asked
        os._exit(128 + signal.SIGKILL)


def _prctl(option: int, argument: int) -> None:
    if _libc is not None:
        _libc.prctl(option, argument, 0, 0, 0)


if __name__ == "__main__":
    main()
