"""
Recorded loads: the two public forms of LLM traces, told apart by their first line.

Mooncake (JSON lines): `timestamp` in ms, `input_length`, `output_length`, `hash_ids` of the prompt's blocks of 512
tokens, each id standing for all of the prompt up to its block's end. Its times are rounded to 3 s; requests of one time
are spread evenly up to the next. Azure (CSV): `TIMESTAMP,ContextTokens,GeneratedTokens`.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from math import inf
from pathlib import Path

from gateway.errors import InvalidInput
from gateway.planner.load import Request, check_count

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE_ROUNDED_S = 3.0
_SECOND_DIGITS_MAX = 6


def read_trace(path: Path) -> list[Request]:
    """Read a trace; times begin at 0. Raises InvalidInput naming the file and the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InvalidInput(f"The trace {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The trace {path} is not text: byte {error.start} is not UTF-8.") from error
    check_count(len(lines))
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise InvalidInput(f"The trace {path} is empty.")
    is_mooncake = first.lstrip().startswith("{")
    rows = list(_mooncake(path, lines) if is_mooncake else _azure(path, lines))
    if not rows:
        raise InvalidInput(f"The trace {path} has a heading, but no requests.")
    rows.sort(key=lambda row: row.at_s)
    rows = [_shift(row, rows[0].at_s) for row in rows]
    return _spread(rows) if is_mooncake else rows


def _mooncake(path: Path, lines: Sequence[str]) -> Iterator[Request]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _wrong(path, number, f"is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise _wrong(path, number, "is not a JSON object")
        at_ms, prompt, output = (
            _number(path, number, row, name) for name in ("timestamp", "input_length", "output_length")
        )
        blocks = _blocks(path, number, row)
        yield replace(_request(path, number, at_ms / 1000, prompt, output), blocks=blocks)


def _blocks(path: Path, number: int, row: dict[str, object]) -> tuple[int, ...]:
    blocks = row.get("hash_ids", [])
    if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
        raise _wrong(path, number, "has something else than a list of whole numbers for 'hash_ids'")
    return tuple(blocks)


def _azure(path: Path, lines: Sequence[str]) -> Iterator[Request]:
    rows = csv.DictReader(lines)
    if missing := [name for name in AZURE_COLUMNS if name not in (rows.fieldnames or ())]:
        message = f"begins neither as Mooncake's JSON lines nor as Azure's CSV: it has no column {missing[0]!r}"
        raise _wrong(path, 1, message)
    for row in rows:
        number = rows.line_num
        prompt, output = (_count(path, number, name, row[name]) for name in AZURE_COLUMNS[1:])
        yield _request(path, number, _time_s(path, number, row["TIMESTAMP"]), prompt, output)


def _number(path: Path, number: int, row: dict[str, object], name: str) -> int:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(path, number, f"has {value!r} for {name!r}, which must be a whole number")
    return value


def _count(path: Path, number: int, name: str, value: str | None) -> int:
    try:
        return int(value or "")
    except ValueError as error:
        raise _wrong(path, number, f"has {value!r} for {name!r}, which must be a whole number") from error


def _time_s(path: Path, number: int, value: str | None) -> float:
    whole, _, fraction = (value or "").partition(".")
    try:
        moment = datetime.fromisoformat(f"{whole}.{fraction[:_SECOND_DIGITS_MAX]:0<6}")
    except ValueError as error:
        raise _wrong(
            path, number, f"has {value!r} for 'TIMESTAMP', which must be a time like 2023-11-16 18:15:46.68"
        ) from error
    return (moment - datetime(2000, 1, 1, tzinfo=moment.tzinfo)).total_seconds()


def _request(path: Path, number: int, at_s: float, prompt: int, output: int) -> Request:
    if prompt < 0 or output < 0:
        raise _wrong(path, number, "has fewer than 0 tokens")
    return Request(at_s=at_s, prompt_tokens=max(1, prompt), output_tokens=max(1, output))


def _shift(request: Request, start_s: float) -> Request:
    return replace(request, at_s=request.at_s - start_s)


def _spread(requests: Sequence[Request]) -> list[Request]:
    """Spread requests that share a rounded time evenly up to the next one, in their order."""
    groups = [list(group) for _, group in groupby(requests, key=lambda one: one.at_s)]
    nexts = [*(group[0].at_s for group in groups[1:]), inf]
    return [one for group, next_s in zip(groups, nexts, strict=True) for one in _spread_group(group, next_s)]


def _spread_group(group: Sequence[Request], next_s: float) -> Iterator[Request]:
    step_s = min(next_s - group[0].at_s, MOONCAKE_ROUNDED_S) / len(group)
    for place, one in enumerate(group):
        yield _shift(one, -place * step_s)


def _wrong(path: Path, number: int, message: str) -> InvalidInput:
    return InvalidInput(f"The trace {path}, line {number}, {message}.")
