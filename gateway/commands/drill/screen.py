"""What a drill shows to people: its progress on stderr while it runs, its result as tables when it has ended."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gateway.commands.drill.client import Ending
from gateway.commands.drill.crowd import Crowd
from gateway.commands.drill.scenario import Scenario
from gateway.commands.output import print_table

REFRESH_S = 0.5  # the drill shares its cores with what it measures
_TENANTS_SHOWN = 10
_SHOWN = (
    ("users", "users"),
    ("served", "served whole"),
    ("refused", "refused"),
    ("left", "left by themselves"),
    ("lost", "lost"),
    ("starved", "starved"),
    ("first_byte_s_p99", "first byte p99, s"),
    ("eta_error_mean", "ETA error, mean"),
    ("hangup_removed_ms_p99", "hang-up removed p99, ms"),
    ("fairness_jain", "fairness (Jain)"),
    ("redis_ops_per_request", "Redis operations per request"),
    ("gateway_memory_kib_per_waiting", "gateway memory per waiting request, KiB"),
    ("gateway_cpu_ms_per_request", "gateway CPU per request, ms"),
    ("waiting_max", "most that waited at once"),
    ("served_per_s", "served per second"),
    ("client_lag_s_max", "drill's own lag, s"),
    ("drill_cpu_ms_per_request", "drill's own CPU per request, ms"),
    ("duration_s", "duration, s"),
)


class Screen:
    """Progress on stderr: live where that is a terminal, else only the lines that say what happens."""

    def __init__(self, capacity: str) -> None:
        self._console = Console(stderr=True)
        self._capacity = capacity

    def say(self, line: str) -> None:
        """Write a line that stays."""
        self._console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say what is under way, and how long it took."""
        began_s = time.monotonic()
        with (
            self._console.status(f"starting {escape(what)}") if self._console.is_terminal else contextlib.nullcontext()
        ):
            yield
        self.say(f"{what} started in {time.monotonic() - began_s:.1f} s")

    @contextlib.asynccontextmanager
    async def following(self, crowd: Crowd, scenario: Scenario) -> AsyncIterator[None]:
        """Show the crowd while the block runs."""
        self.say(
            f"{scenario.users:,} users within {scenario.over_s:g} s, after {scenario.calm_s:g} s with "
            f"{scenario.base_rate:.2g} requests/s; capacity {self._capacity}"
        )
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            showing = asyncio.ensure_future(self._show(live, crowd, scenario))
            try:
                yield
            finally:
                showing.cancel()
                await asyncio.wait({showing})

    async def _show(self, live: Live, crowd: Crowd, scenario: Scenario) -> None:
        while True:
            live.update(_progress(crowd, scenario, self._capacity), refresh=True)
            await asyncio.sleep(REFRESH_S)


def print_result(result: Mapping[str, Any]) -> None:
    """Print the figures, then the waits per class and tenant, and what was refused."""
    print_table(("figure", "value"), [{"figure": name, "value": _value(result[key])} for key, name in _SHOWN])
    waits = [{"class": name, **_seconds(wait)} for name, wait in result["wait_s"].items()]
    print_table(("class", "p50", "p95", "p99"), waits)
    tenants = list(result["tenants"].items())
    rows = [
        {"tenant": name, "served": one["served"], "tokens": one["tokens"], **_seconds(one["wait_s"])}
        for name, one in tenants[:_TENANTS_SHOWN]
    ]
    print_table(("tenant", "served", "tokens", "p50", "p95", "p99"), rows)
    for title in ("refusals", "losses"):
        if result[title]:
            print_table((title, "requests"), [{title: code, "requests": n} for code, n in result[title].items()])


def _progress(crowd: Crowd, scenario: Scenario, capacity: str) -> Table:
    elapsed_s = time.monotonic() - crowd.began_s
    came = sum(counter.total() for counter in crowd.counts.values())
    table = Table(title=f"{elapsed_s:6.1f} s   {came:,} of {scenario.users:,} came   capacity {capacity}")
    table.add_column("class")
    for ending in Ending:
        table.add_column(ending.value, justify="right")
    for name, counter in crowd.counts.items():
        table.add_row(name, *(f"{counter[ending]:,}" for ending in Ending))
    table.add_section()
    table.add_row("all", *(f"{crowd.count(ending):,}" for ending in Ending), style="bold")
    return table


def _seconds(wait: Mapping[str, float | None]) -> dict[str, str]:
    return {name: f"{value:.2f} s" for name, value in wait.items() if value is not None}


def _value(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,}"
