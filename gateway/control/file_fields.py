"""Fields of sluice.yaml read as what they must be; what is wrong is noted with its place, and all told at once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from math import isfinite
from typing import Any

from gateway.control.names import NAME_CHARS_MAX, check_name
from gateway.errors import InvalidInput
from gateway.marked_yaml import Marked, Spot, at_line, did_you_mean, shown


class Level(Enum):
    """How bad it is: an error is never applied, a warning is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a file: where, about *what* (its dotted name), and what to do."""

    level: Level
    file: str
    spot: Spot
    what: str
    message: str

    def __str__(self) -> str:
        return at_line(self.file, self.spot, self.what, self.message) + "."


@dataclass(slots=True)
class Findings:
    """What was found so far. The readers below give a value that can stand in for what is wrong."""

    found: list[Finding] = field(default_factory=list)

    def error(self, at: Marked, message: str) -> None:
        self.found.append(Finding(Level.ERROR, at.file, at.spot, at.dotted, message))

    def warning(self, at: Marked, message: str) -> None:
        self.found.append(Finding(Level.WARNING, at.file, at.spot, at.dotted, message))

    @property
    def errors(self) -> list[Finding]:
        return [each for each in self.found if each.level is Level.ERROR]

    def mapping(self, at: Marked | None, what: str) -> dict[str, Marked]:
        """Read a mapping whose names people choose; nothing is an empty one."""
        if at is None or at.value is None:
            return {}
        if not isinstance(at.value, dict):
            self.error(at, f"{at.kind}, must be {what}")
            return {}
        return at.value

    def section(self, at: Marked, known: Iterable[str]) -> dict[str, Marked]:
        """Read a mapping that has only names that are *known*."""
        names = list(known)
        fields = self.mapping(at, f"a mapping with {', '.join(names)}")
        for name, each in fields.items():
            if name not in names:
                message = f"is no field here.{did_you_mean(name, names)} Known are {', '.join(names)}"
                self.found.append(Finding(Level.ERROR, each.file, each.named_at, each.dotted, message))
        return fields

    def text(self, at: Marked | None) -> str:
        """Read a text as it is written: `8`, `no` and `2026-01-01` are texts here too. Nothing is an empty one."""
        if at is None:
            return ""
        if isinstance(at.value, dict | list):
            self.error(at, f"{at.kind}, must be a text")
            return ""
        return "" if at.value is None else at.text

    def name(self, at: Marked) -> str:
        """Read a text that can be a name."""
        text = self.text(at)
        if not isinstance(at.value, dict | list):
            self.check_name(at, text)
        return text

    def check_name(self, at: Marked, name: str) -> None:
        """Note a name that cannot be."""
        try:
            check_name("a name", name)
        except InvalidInput:
            self.error(at, f"{shown(name)}, a name has 1 to {NAME_CHARS_MAX} printable characters")

    def texts(self, at: Marked | None, each: Callable[[Marked], str]) -> tuple[str, ...]:
        """Read a list of texts."""
        if at is None or at.value is None:
            return ()
        if not isinstance(at.value, list):
            self.error(at, f"{at.kind}, must be a list, such as [one, two]")
            return ()
        return tuple(each(item) for item in at.value)

    def whole(self, at: Marked | None, least: int, most: int, default: int) -> int:
        """Read a whole number from *least* to *most*."""
        if at is None:
            return default
        if type(at.value) is not int or not least <= at.value <= most:
            self.error(at, f"{at.kind}, must be a whole number from {least} to {most}")
            return default
        return at.value

    def seconds(self, at: Marked | None, least: float, most: float, default: Any) -> Any:
        """Read a number of seconds from *least* to *most*; *default* may be None."""
        if at is None or (at.value is None and default is None):
            return default
        number = at.value
        if type(number) not in {int, float} or not isfinite(number) or not least <= number <= most:
            self.error(at, f"{at.kind}, must be a number of seconds from {least:g} to {most:g}")
            return default
        return float(number)
