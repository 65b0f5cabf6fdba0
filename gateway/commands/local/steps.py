"""What `sluice up` is doing, for people: a live line with a clock while a step runs, a line that stays when it ends."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """Tells the steps of a start to *console*; where that is no terminal, only the lines that stay are written."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def say(self, line: str) -> None:
        """Write a line that stays, above whatever is live."""
        self._console.print(f"    {escape(line)}", highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show *title* as under way while the block runs, then whether it worked and how long it took."""
        began = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        live = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        mark = "[red]✗[/]"
        try:
            with live:
                live.add_task(escape(title), total=None)
                yield
            mark = "[green]✓[/]"
        finally:
            seconds = f"{time.monotonic() - began:.1f} s"
            self._console.print(f"  {mark} {escape(title):<48} {seconds:>8}", highlight=False)
