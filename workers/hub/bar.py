"""A transfer as a bar on a terminal."""

from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Bar:
    """One bar per step, with bytes, rate and time to go; notes appear above it."""

    def __init__(self, stream: TextIO) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
        )
        self._task: TaskID | None = None
        self._noted = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, what: str, bytes_total: int) -> None:
        self._task = self._bars.add_task(what, total=bytes_total)

    def at(self, bytes_done: int) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=bytes_done)

    def note(self, text: str) -> None:
        if text != self._noted:
            self._noted = text
            self._bars.console.print(text, highlight=False, markup=False)
