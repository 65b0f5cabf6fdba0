"""Hosts of the tests' own, on networks that can be cut: network namespaces, joined to this one by cables (veth)."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

_NUMBERS = count()
# A hardware address that nobody has: what is sent to it is lost without a word, as on a network that was cut.
_NOBODY = "02:00:00:00:00:ff"


class Cable:
    """
    A network of two: this machine at *here*, the other host at *there*.

    Cut, it swallows what either side sends; nobody is told, no connection ends.
    """

    def __init__(self, host: "Host", number: int) -> None:
        self.here, self.there = f"10.199.{number}.1", f"10.199.{number}.2"
        self._host = host
        # Interfaces are shared by all tests on this machine, and a name has 15 letters at most.
        self._here_end, self._there_end = f"sl{os.getpid() % 10**6}h{number}", f"sl{os.getpid() % 10**6}t{number}"
        _ip("link", "add", self._here_end, "type", "veth", "peer", "name", self._there_end, "netns", host.name)
        _ip("address", "add", f"{self.here}/30", "dev", self._here_end)
        _ip("link", "set", self._here_end, "up")
        host.ip("address", "add", f"{self.there}/30", "dev", self._there_end)
        host.ip("link", "set", self._there_end, "up")

    def cut(self) -> None:
        """Lose all packets from now on, in both directions."""
        _ip("neighbour", "replace", self.there, "lladdr", _NOBODY, "dev", self._here_end, "nud", "permanent")
        here = ("neighbour", "replace", self.here, "lladdr", _NOBODY, "dev", self._there_end, "nud", "permanent")
        self._host.ip(*here)

    def mend(self) -> None:
        """Pass packets on again."""
        _ip("neighbour", "delete", self.there, "dev", self._here_end)
        self._host.ip("neighbour", "delete", self.here, "dev", self._there_end)


class Host:
    """Another host; a process runs there if its command begins with `prefix`."""

    def __init__(self) -> None:
        self.name = f"sluice-{os.getpid()}-{next(_NUMBERS)}"
        self.prefix = ["ip", "netns", "exec", self.name]
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def cable(self) -> Cable:
        """Join this machine and that host by one more network."""
        return Cable(self, next(_NUMBERS) % 250)

    def ip(self, *arguments: str) -> None:
        """Run `ip` there."""
        _ip("-n", self.name, *arguments)

    def close(self) -> None:
        """Take the host away, and its cables with it."""
        _ip("netns", "delete", self.name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


@contextmanager
def relay(address: str, port: int) -> Iterator[int]:
    """Take connections at *address* to the server that listens on *port* of loopback; gives the port to call."""
    loop, stop, started = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        server = await asyncio.start_server(lambda reader, writer: _pass_on(reader, writer, port), address, 0)
        async with server:
            ports.append(server.sockets[0].getsockname()[1])
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _pass_on(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter, port: int) -> None:
    with suppress(OSError):
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(from_client, to_server), _copy(from_server, to_client))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
