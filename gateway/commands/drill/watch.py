"""What a drill costs, seen from outside: memory and CPU of the gateways' processes, commands that reach Redis."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

SAMPLE_S = 0.25
_LINE_END, _FROM_SCRIPT = b"\r\n", b" lua]"


@dataclass(slots=True)
class GatewayCosts:
    """Memory of all gateways together, in bytes, before the burst and at its largest; CPU seconds since then."""

    rss_before: int = 0
    rss_max: int = 0
    cpu_s: float = 0.0


class GatewayMeter:
    """Reads the operating system's account of the processes *pids*, which must not end meanwhile."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._cpu_before_s = 0.0
        self.costs = GatewayCosts()

    def begin(self) -> None:
        """Take what there is now as the state before the burst."""
        rss = self._rss()
        self._cpu_before_s = self._cpu_s()
        self.costs = GatewayCosts(rss, rss)

    async def run(self) -> None:
        """Take a sample every SAMPLE_S until cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_S)
            self.sample()

    def sample(self) -> None:
        """Take a sample now. A gateway that has died counts as nothing from then on."""
        self.costs.rss_max = max(self.costs.rss_max, self._rss())
        self.costs.cpu_s = max(self.costs.cpu_s, self._cpu_s() - self._cpu_before_s)

    def _rss(self) -> int:
        return sum(process.memory_info().rss for process in self._alive())

    def _cpu_s(self) -> float:
        times = [process.cpu_times() for process in self._alive()]
        return sum(one.user + one.system for one in times)

    def _alive(self) -> list[psutil.Process]:
        return [one for one in self._processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


class RedisMeter(asyncio.Protocol):
    """
    Counts the commands that clients send to a Redis, by MONITOR.

    INFO commandstats would be less work, but counts what a script calls as well, so that EVALSHA and all it does cannot
    be told from as many commands over the wire; MONITOR marks them.
    """

    def __init__(self, port: int, password: str) -> None:
        self._calls = 0
        self._calls_before = 0
        self._port = port
        self._password = password
        self._rest = b""

    @property
    def calls(self) -> int:
        """Commands since `begin`."""
        return self._calls - self._calls_before

    def begin(self) -> None:
        """Count from now on."""
        self._calls_before = self._calls

    async def run(self) -> None:
        """Count until cancelled."""
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
        try:
            transport.write(f"AUTH {self._password}\r\nMONITOR\r\n".encode())
            await asyncio.Event().wait()
        finally:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        whole, end, self._rest = data.rpartition(_LINE_END)
        self._calls += (whole + end).count(_LINE_END) - whole.count(_FROM_SCRIPT)
