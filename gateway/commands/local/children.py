"""
Child processes: started, started again when they die, stopped in order, never left behind.

Each child leads a session of its own, so Ctrl-C in the terminal reaches only the parent, which decides the order of
the stop. On Linux the kernel sends a child SIGTERM when its parent dies, even by `kill -9`.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from gateway.errors import StartFailed

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # before the 1st, 2nd … start after a death; the last one repeats
HEALTHY_S = 60.0  # a child that ran this long begins with the first back-off again
POLL_S = 0.2  # how often a child that starts is asked whether it is ready
HURRIED_S = 2.0  # what a stop may still take once the user is in a hurry
LOG_BYTES_MAX = 16 << 20  # a longer log is set aside at the next start
LINE_MAX = 300  # of a log line quoted in a message
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None)  # loaded before any fork: the child may not allocate much

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run. *stop_s_max* is how long it may take to end after SIGTERM; *environ* is added to our own."""

    name: str
    argv: tuple[str, ...]
    log: Path
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)  # holds secrets
    stop_s_max: float = 10.0


class Child:
    """One program kept running: started again, with back-off and a line that says why, when it ends by itself."""

    def __init__(self, program: Program, say: Say, hurry: asyncio.Event) -> None:
        self.program = program
        self.deaths = 0
        self._say = say
        self._hurry = hurry
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Child {self.program.name} pid {self.pid}, {self.deaths} deaths>"

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it and keep it running from now on."""
        self._process = await _spawn(self.program)
        self._keeping = asyncio.create_task(self._keep(self._process), name=f"keep {self.program.name}")

    async def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL when its time is up. Whatever is left in its process group goes with it."""
        if self._keeping:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        if self._process:
            await self._end(self._process)

    def failure(self) -> StartFailed:
        """Give the error for a child that died before it was of use."""
        return StartFailed(
            f"{self.program.name} did not start: {last_line(self.program.log)} (all of it in {self.program.log})"
        )

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            status = await process.wait()
            _signal_group(process.pid, signal.SIGKILL)
            failures = 1 if loop.time() - started > HEALTHY_S else failures + 1
            delay = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
            self.deaths += 1
            self._say(f"{self.program.name} {self._why(status)}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            process = self._process = await _spawn(self.program)

    def _why(self, status: int) -> str:
        said = f": {last_line(self.program.log)}" if status > 0 else ""
        return describe_end(status) + said + f" (log: {self.program.log})"

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            if not await self._ends_in_time(process):
                self._say(f"{self.program.name} has not ended after its time was up: killing it")
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()

    async def _ends_in_time(self, process: asyncio.subprocess.Process) -> bool:
        ending = asyncio.ensure_future(process.wait())
        hurrying = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({ending, hurrying}, timeout=self.program.stop_s_max, return_when="FIRST_COMPLETED")
            if hurrying.done() and not ending.done():
                process.terminate()  # a second time: who drains takes it as a hint
                await asyncio.wait({ending}, timeout=HURRIED_S)
            return ending.done()
        finally:
            ending.cancel()
            hurrying.cancel()


@contextlib.asynccontextmanager
async def running(programs: Sequence[Program], say: Say, hurry: asyncio.Event) -> AsyncIterator[list[Child]]:
    """Keep *programs* running while the block runs; they are stopped together at its end, and it waits for that."""
    children = [Child(program, say, hurry) for program in programs]
    try:
        for child in children:
            await child.start()
        yield children
    finally:
        await asyncio.gather(*(child.stop() for child in children))


async def wait_for(
    is_true: Callable[[], Awaitable[bool]], children: Sequence[Child], seconds_max: float | None
) -> None:
    """Ask *is_true* until it is. Raises StartFailed if one of *children* dies first or it takes too long."""
    try:
        async with asyncio.timeout(seconds_max):
            while not await is_true():
                for child in children:
                    if child.deaths:
                        raise child.failure()
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        child = children[0]
        raise StartFailed(
            f"{child.program.name} has not answered within {seconds_max:g} s. Its log: {child.program.log}"
        ) from None


def describe_end(status: int) -> str:
    """Say in words how a process ended, from its return code."""
    if status >= 0:
        return f"ended by itself with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def last_line(log: Path) -> str:
    """Give the last line of *log* that says something, or a sentence that there is none."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip()[:LINE_MAX] for line in reversed(lines) if line.strip()), "it said nothing")


async def _spawn(program: Program) -> asyncio.subprocess.Process:
    parent = os.getpid()
    with _open_log(program.log) as log:
        return await asyncio.create_subprocess_exec(
            *program.argv,
            env={**os.environ, **program.environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: _die_with(parent),
        )


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".old.log"))
    return path.open("ab")


def _die_with(parent: int) -> None:
    """Run in the new child: ask the kernel for SIGTERM when *parent* dies, and leave if it has died meanwhile."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
