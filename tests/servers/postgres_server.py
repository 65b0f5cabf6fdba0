"""A PostgreSQL of the tests' own: its data in a temporary folder, on a free port, never as root."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import psycopg

from tests.parts import postgres_programs
from tests.servers.process import free_port

PASSWORD = "a-secret-word"
USER_INSTEAD_OF_ROOT = "postgres"  # the server refuses to run as root; Debian's package brings this user


class PostgresServer:
    """
    One server; `url` reaches its maintenance database. Whoever stops it starts it again.

    Its commits wait for the disk only if it *is_durable*.
    """

    def __init__(self, folder: Path, *, is_durable: bool = False) -> None:
        self._is_durable = is_durable
        self._user = USER_INSTEAD_OF_ROOT if os.geteuid() == 0 else None
        self._folder = folder
        self._data = folder / "data"
        self._port = free_port()
        self.url = f"postgresql://sluice:{PASSWORD}@127.0.0.1:{self._port}/postgres"
        self._make_data_folder()
        self._initialise()

    @property
    def pid(self) -> int:
        """Its first process, while it runs; the others are that one's children."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Start it and return once it answers."""
        durability = "" if self._is_durable else "-F"
        options = f"-p {self._port} -h 127.0.0.1 -k '' {durability} -c max_connections=60"
        self._run("pg_ctl", "start", "-w", "-l", str(self._data / "server.log"), "-o", options)

    def stop(self) -> None:
        """End it as a crash would: connections break, what was committed is there after the next start."""
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    @contextlib.contextmanager
    def frozen(self):
        """Keep it from answering while the block runs; its connections stay open and its kernel still acknowledges."""
        postmaster = psutil.Process(self.pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        _signal(processes, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(processes, signal.SIGCONT)

    def cpu_s(self) -> float:
        """Give the CPU time that all its processes have used, those included that have ended."""
        postmaster = psutil.Process(self.pid)
        used_s = 0.0
        for process in postmaster.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # then it is among what ended, below
                times = process.cpu_times()
                used_s += times.user + times.system
        times = postmaster.cpu_times()
        return used_s + times.user + times.system + times.children_user + times.children_system

    def new_database(self, name: str) -> str:
        """Create an empty database and give its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url.removesuffix("postgres") + name

    def _make_data_folder(self) -> None:
        self._data.mkdir()
        if self._user:
            self._folder.chmod(0o711)
            shutil.chown(self._data, self._user)

    def _initialise(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        self._run("initdb", "-U", "sluice", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--no-sync")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(postgres_programs() / program), "-D", str(self._data), *arguments]
        log = self._folder / f"{program}.log"
        with log.open("wb") as output:
            done = subprocess.run(command, user=self._user, cwd="/", stdout=output, stderr=output, check=False)
        assert done.returncode == 0, f"{program} failed: {log.read_text()}"


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Signal those that there still are: a backend may be about to end when its server is frozen."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
