"""How far a transfer is, for a terminal as a bar and for everything else as lines now and then."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

from workers.hub.ids import size_text

LINE_S = 10.0  # between two lines of a transfer in a log
REPORT_S = 1.0  # between two reports to another process


class Progress(Protocol):
    """What a transfer tells whoever watches it. Nothing here may block for long or raise."""

    def start(self, what: str, bytes_total: int) -> None:
        """A transfer, or a step of one, begins; the one before it has ended."""

    def at(self, bytes_done: int) -> None:
        """So many bytes of the step are there, those of earlier attempts included."""

    def note(self, text: str) -> None:
        """Something worth a line happened: who is waited for, why there is a pause."""


class Silence:
    """Watches nothing."""

    def start(self, what: str, bytes_total: int) -> None:
        pass

    def at(self, bytes_done: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Lines:
    """A line when a step begins and ends, and every LINE_S seconds in between: for logs."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._what, self._total, self._noted = "", 0, ""
        self._begun = self._told = clock()
        self._first = -1

    def start(self, what: str, bytes_total: int) -> None:
        self._what, self._total, self._first = what, bytes_total, -1
        self._begun = self._told = self._clock()
        self._write(f"{what}: {size_text(bytes_total)}")

    def at(self, bytes_done: int) -> None:
        now = self._clock()
        if self._first < 0:
            self._first = bytes_done
        is_end = bytes_done >= self._total
        if now - self._told >= LINE_S or (is_end and self._what):
            self._told = now
            self._write(f"{self._what}: {self._share(bytes_done)}{self._rate(bytes_done, now)}")
            self._what = "" if is_end else self._what

    def note(self, text: str) -> None:
        if text != self._noted:
            self._noted = text
            self._write(text)

    def _share(self, bytes_done: int) -> str:
        percent = 100 * bytes_done // self._total if self._total else 100
        return f"{percent} %, {size_text(bytes_done)} of {size_text(self._total)}"

    def _rate(self, bytes_done: int, now: float) -> str:
        rate = (bytes_done - self._first) / max(now - self._begun, 0.001)
        if rate <= 0 or bytes_done >= self._total:
            return ""
        return f", {size_text(int(rate))}/s, {int((self._total - bytes_done) / rate)} s to go"


class Reports:
    """Passes everything on to *shown*, and writes once a second where a step is, one JSON object a line."""

    def __init__(
        self, shown: Progress, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shown, self._write, self._clock = shown, write, clock
        self._total = 0
        self._due = 0.0

    def start(self, what: str, bytes_total: int) -> None:
        self._total, self._due = bytes_total, 0.0
        self._shown.start(what, bytes_total)

    def at(self, bytes_done: int) -> None:
        self._shown.at(bytes_done)
        if self._clock() >= self._due:
            self._due = self._clock() + REPORT_S
            self._write(json.dumps({"bytes_done": bytes_done, "bytes_total": self._total}))

    def note(self, text: str) -> None:
        self._shown.note(text)


@contextlib.contextmanager
def watching(stream: TextIO = sys.stderr) -> Iterator[Progress]:
    """Give a Progress that shows itself on *stream*: a bar on a terminal, lines elsewhere."""
    if not stream.isatty():
        yield Lines(lambda text: print(text, file=stream, flush=True))
        return
    from workers.hub.bar import Bar  # noqa: PLC0415  rich takes a while to import

    with Bar(stream) as bar:
        yield bar
