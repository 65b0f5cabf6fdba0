"""Processes that tests start, watch, kill and stop, each with its log in the test's folder."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.waiting import let_run_s

SLUICE = str(Path(sys.executable).with_name("sluice"))


class Process:
    """One program with its output in *log*; killed at the latest when the test ends."""

    def __init__(self, name: str, argv: list[str], log: Path, environ: dict[str, str] | None = None) -> None:
        self.name = name
        self.argv = argv
        self.log = log
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")} | (environ or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """End it as a crash would: SIGKILL, to this process alone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def kill_tree(self) -> None:
        """End it and all its children as a host's death would."""
        self.freeze_tree()  # so that none can react to another's end
        self._signal_tree(signal.SIGKILL)
        self.kill()

    def freeze_tree(self) -> None:
        """Hold it and all its children in mid-step: they do nothing until thaw_tree or kill_tree."""
        self._signal_tree(signal.SIGSTOP)

    def thaw_tree(self) -> None:
        self._signal_tree(signal.SIGCONT)

    def _signal_tree(self, number: signal.Signals) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for part in (psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    part.send_signal(number)

    def stop(self, within_s: float = 40) -> int:
        """End it as an operator would: SIGTERM; gives the exit status."""
        assert self._process is not None, f"{self.name} was not started"
        self._process.terminate()
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill_tree()
            raise AssertionError(f"{self.name} did not stop within {within_s} s: {self.tail()}") from None

    def tail(self, count: int = 15) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-count:])

    def wait_until(self, what: str, is_so, within_s: float) -> None:
        """Wait until *is_so()*; fails with the end of the log when the process dies or time runs out."""
        deadline = let_run_s() + within_s
        while not is_so():
            assert self.is_running, f"{self.name} ended before it was {what}:\n{self.tail()}"
            assert let_run_s() < deadline, f"{self.name} was not {what} within {within_s} s:\n{self.tail()}"
            time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
