"""
YAML with its places: every value knows the line and column it was written at, so that every error can name them.

It reads what people write by hand and nothing else: no tags that make objects, no name twice in a mapping, and no more
values than a file can mean, since aliases of aliases multiply.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from typing import Any

import yaml

from gateway.errors import InvalidInput

FILE_BYTES_MAX = 1 << 20  # PyYAML reads that in seconds
VALUES_MAX = 20_000  # some thousand pools; nine lines of aliases could mean 10⁹ values
DEPTH_MAX = 50  # the deepest name that means something has six above it
_TOO_DEEP = f"values are nested more than {DEPTH_MAX} deep"
_MERGE = "tag:yaml.org,2002:merge"
_SHOWN_CHARS_MAX = 60


@dataclass(frozen=True, slots=True, order=True)
class Spot:
    """A place in a file, as editors count: from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Marked:
    """
    A value and its place: *value* is a dict of Marked by name, a list of Marked, or a plain value; *text* as written.

    *path* are the names that lead to it. It begins *at* a spot, ends in line *end*; its name stands *named_at*.
    """

    file: str
    path: tuple[str, ...]
    value: Any
    text: str
    at: Spot
    named_at: Spot
    end: int

    @property
    def spot(self) -> Spot:
        """Where to look: at a plain value itself, at the name of anything larger."""
        return self.named_at if isinstance(self.value, dict | list) else self.at

    @property
    def dotted(self) -> str:
        return ".".join(self.path)

    @property
    def kind(self) -> str:
        """What it is, in a word for messages."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        if self.value is None:
            return "nothing"
        return shown(self.text) if isinstance(self.value, str) else self.text[:_SHOWN_CHARS_MAX]

    def plain(self) -> Any:
        """Give it without its places."""
        if isinstance(self.value, dict):
            return {name: each.plain() for name, each in self.value.items()}
        if isinstance(self.value, list):
            return [each.plain() for each in self.value]
        return self.value

    def find(self, path: tuple[str, ...]) -> "Marked":
        """Give what stands at *path* below this one, or the nearest above that."""
        below = self.value.get(path[0]) if path and isinstance(self.value, dict) else None
        return below.find(path[1:]) if below else self

    def walk(self) -> Iterator["Marked"]:
        """Give this one and all below it, in the order of the file."""
        yield self
        below = self.value.values() if isinstance(self.value, dict) else self.value
        if isinstance(self.value, dict | list):
            for each in below:
                yield from each.walk()


def at_line(file: str, spot: Spot, what: str, message: str) -> str:
    """Write an error about *what* so that editors and people find its place."""
    return f"{file}:{spot.line}: {what}{': ' if what else ''}{message} (column {spot.column})"


def shown(text: str) -> str:
    """Quote what somebody wrote, cut to what fits into a sentence."""
    return repr(text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…")


def did_you_mean(name: str, known: Mapping[str, Any] | tuple[str, ...] | list[str]) -> str:
    """Give ` Did you mean …?` for the closest of the *known* names, or nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def read_yaml(content: bytes, file: str) -> Marked:
    """
    Read a file that is called *file* in messages; an empty one is an empty mapping.

    Raises InvalidInput naming the line: not UTF-8, not YAML, a name twice, a tag, not a mapping, too much of it.
    """
    if len(content) > FILE_BYTES_MAX:
        raise InvalidInput(f"{file} has {len(content)} bytes. The most is {FILE_BYTES_MAX}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{file}:{line}: byte {error.start} is not UTF-8. Save it as UTF-8.") from error
    root = _compose(text, file)
    if root is None:
        return Marked(file, (), {}, "", Spot(1, 1), Spot(1, 1), 1)
    if not isinstance(root, yaml.MappingNode):
        raise _error(file, root.start_mark, "the file must be a mapping of names to values, such as `port: 8080`")
    return _Reader(file).read(root, (), root.start_mark)


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        advice = ". Indent with spaces, not tabs" if "'\\t'" in (error.problem or "") else ""
        mark = error.problem_mark or error.context_mark
        raise _error(file, mark, f"not valid YAML: {error.problem}{advice}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InvalidInput(f"{file}:{line}: not valid YAML: it holds a character that no text has.") from error
    except RecursionError as error:
        raise _error(file, _deep_mark(text), _TOO_DEEP) from error


def _deep_mark(text: str) -> Any:
    """Find where the nesting gets too deep; the parser below the composer does not recurse."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            return event.start_mark
    return None


@dataclass(slots=True)
class _Reader:
    """Turns PyYAML's nodes into Marked values, and counts them."""

    file: str
    values: int = 0
    above: list[yaml.Node] = field(default_factory=list)
    scalars: yaml.SafeLoader = field(default_factory=lambda: yaml.SafeLoader(""))

    def read(self, node: yaml.Node, path: tuple[str, ...], named_at: yaml.Mark) -> Marked:
        self.values += 1
        if self.values > VALUES_MAX:
            raise _error(self.file, named_at, f"aliases repeat values until there are more than {VALUES_MAX}")
        if len(self.above) > DEPTH_MAX:
            raise _error(self.file, named_at, _TOO_DEEP)
        if any(node is each for each in self.above):
            raise _error(self.file, named_at, "an alias of a value stands inside it, which has no end")
        self.above.append(node)
        value = self._value(node, path)
        self.above.pop()
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        end = node.end_mark.line + (node.end_mark.column > 0)
        return Marked(self.file, path, value, text, _spot(node.start_mark), _spot(named_at), end)

    def _value(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(each, (*path, str(at)), each.start_mark) for at, each in enumerate(node.value)]
        try:
            return self.scalars.construct_object(node)
        except yaml.MarkedYAMLError as error:
            raise _error(self.file, node.start_mark, f"{'.'.join(path)}: {error.problem}") from error
        except (ValueError, OverflowError) as error:
            raise _error(self.file, node.start_mark, f"{'.'.join(path)}: {shown(node.value)} is no value") from error

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Marked]:
        found: dict[str, Marked] = {}
        merged: dict[str, Marked] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                merged = {**self._merged(value, path), **merged}
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise _error(self.file, key.start_mark, "a name must be a plain text")
            if key.value in found:
                before = found[key.value].named_at.line
                raise _error(self.file, key.start_mark, f"{shown(key.value)} stands twice, first in line {before}")
            found[key.value] = self.read(value, (*path, key.value), key.start_mark)
        return {**merged, **found}

    def _merged(self, node: yaml.Node, path: tuple[str, ...]) -> dict[str, Marked]:
        """Give what `<<` brings in: of several mappings the first one counts."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Marked] = {}
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise _error(self.file, node.start_mark, "`<<` takes a mapping, or a list of them")
            found = {**self.read(part, path, part.start_mark).value, **found}
        return found


def excerpt(root: Marked, content: bytes, names: tuple[str, ...]) -> str:
    """Give the lines of the top-level sections *names* as they stand in the file, comments inside them too."""
    lines = content.decode("utf-8-sig").splitlines(keepends=True)
    starts = sorted(each.named_at.line for each in root.value.values())
    parts = []
    for name in names:
        if section := root.value.get(name):
            first = section.named_at.line
            following = next(islice((line for line in starts if line > first), 1), len(lines) + 1)
            parts.append(_without_end(lines[first - 1 : min(section.end, following - 1)]))
    return "".join(parts)


def _without_end(lines: list[str]) -> str:
    """Join lines but for comments and blanks at their end, which may belong to what follows."""
    last = next((at for at in range(len(lines), 0, -1) if lines[at - 1].split("#")[0].strip()), 0)
    text = "".join(lines[:last])
    return text if text.endswith("\n") else text + "\n"


def _spot(mark: yaml.Mark) -> Spot:
    return Spot(mark.line + 1, mark.column + 1)


def _error(file: str, mark: yaml.Mark | None, problem: str) -> InvalidInput:
    spot = _spot(mark) if mark else Spot(1, 1)
    return InvalidInput(at_line(file, spot, "", problem) + ".")
