"""Child processes of a local installation, with real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from gateway.commands.local.children import Program, describe_end, last_line, running

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
PARENT = """
    import asyncio, sys
    from pathlib import Path
    from gateway.commands.local.children import Program, running

    async def main():
        program = Program(name="child", argv=(sys.executable, "-c", sys.argv[2]), log=Path(sys.argv[1]))
        async with running([program], print, asyncio.Event()) as [child]:
            print(child.pid, flush=True)
            await asyncio.sleep(600)

    asyncio.run(main())
"""


def program(folder: Path, code: str, name: str = "child", **rest: object) -> Program:
    return Program(name=name, argv=(sys.executable, "-c", code), log=folder / f"{name}.log", **rest)


async def says(log: Path, text: str, times: int = 1) -> None:
    """Wait until *log* has *text* so many times."""
    async with asyncio.timeout(20):
        while not log.exists() or log.read_text().count(text) < times:
            await asyncio.sleep(0.01)


async def gone(pid: int) -> None:
    """Wait until no process *pid* runs; one that nobody has waited for yet does not run any more either."""
    async with asyncio.timeout(20):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_a_child_that_dies_is_started_again_and_one_line_says_why(tmp_path):
    lines: list[str] = []
    async with running([program(tmp_path, SLEEPER)], lines.append, asyncio.Event()) as [child]:
        await says(tmp_path / "child.log", "up")
        first = child.pid
        os.kill(first, signal.SIGKILL)
        await says(tmp_path / "child.log", "up", times=2)

        assert child.pid not in {first, None}
        assert child.deaths == 1
    assert len(lines) == 1
    assert "child was killed by SIGKILL" in lines[0]


async def test_the_line_quotes_what_a_failing_child_said_last(tmp_path):
    lines: asyncio.Queue[str] = asyncio.Queue()
    code = "import sys; sys.exit('cannot open the vault')"
    async with running([program(tmp_path, code)], lines.put_nowait, asyncio.Event()), asyncio.timeout(20):
        line = await lines.get()

    assert "ended by itself with exit status 1: cannot open the vault" in line


async def test_waiting_grows_from_death_to_death(tmp_path):
    lines: asyncio.Queue[str] = asyncio.Queue()
    async with running([program(tmp_path, "")], lines.put_nowait, asyncio.Event()), asyncio.timeout(20):
        said = [await lines.get() for _ in range(3)]

    assert [line.rsplit(" in ", 1)[1] for line in said] == ["0.5 s", "1 s", "2 s"]


async def test_leaving_the_block_ends_the_child_and_its_own_children(tmp_path):
    """A worker's agent that is killed must not leave its engine in memory."""
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]).pid, flush=True)"
    async with running([program(tmp_path, code + "; " + SLEEPER)], print, asyncio.Event()) as [child]:
        await says(tmp_path / "child.log", "up", times=2)
        grandchild = int(next(line for line in (tmp_path / "child.log").read_text().split() if line.isdigit()))
        pid = child.pid

    assert not psutil.pid_exists(pid)
    await gone(grandchild)


async def test_a_child_that_ignores_sigterm_is_killed_when_its_time_is_up(tmp_path):
    lines: list[str] = []
    async with running([program(tmp_path, STUBBORN, stop_s_max=0.2)], lines.append, asyncio.Event()) as [child]:
        await says(tmp_path / "child.log", "up")
        pid = child.pid

    assert not psutil.pid_exists(pid)
    assert "killing it" in lines[0]


async def test_hurrying_cuts_a_long_stop_short(tmp_path):
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with running([program(tmp_path, STUBBORN, stop_s_max=600)], lambda _: None, hurry):
        await says(tmp_path / "child.log", "up")
        began = loop.time()
        hurry.set()

    assert loop.time() - began < 10


async def test_blocks_stop_inside_out(tmp_path):
    """The order of the `async with` blocks is the order of the stop: the gateway before Redis, never the reverse."""
    code = "import signal, sys, time; signal.signal(15, lambda *_: (open({log!r}, 'a').write({name!r}), sys.exit())); "
    log = str(tmp_path / "order")
    programs = {
        name: program(tmp_path, code.format(log=log, name=name) + SLEEPER, name)
        for name in ("redis", "worker", "gateway")
    }
    async with (
        running([programs["redis"]], print, asyncio.Event()),
        running([programs["worker"]], print, asyncio.Event()),
        running([programs["gateway"]], print, asyncio.Event()),
    ):
        for name in programs:
            await says(tmp_path / f"{name}.log", "up")

    assert Path(log).read_text() == "gatewayworkerredis"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
async def test_children_end_when_their_parent_is_killed(tmp_path):
    log = tmp_path / "child.log"
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(log), SLEEPER], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    await says(log, "up")
    parent.kill()
    parent.wait()

    await gone(pid)


async def test_a_child_does_not_get_the_terminals_interrupt(tmp_path):
    """Ctrl-C goes to the foreground process group; a child leads a session, and so a group, of its own."""
    async with running([program(tmp_path, SLEEPER)], print, asyncio.Event()) as [child]:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "ended by itself with exit status 0"), (-9, "was killed by SIGKILL"), (-63, "was killed by signal 63")],
)
def test_every_end_has_words(status, words):
    assert describe_end(status) == words


def test_the_last_line_that_says_something_is_quoted(tmp_path):
    log = tmp_path / "log"
    assert last_line(log) == "it said nothing"
    log.write_text("first\nthe reason\n\n")
    assert last_line(log) == "the reason"
