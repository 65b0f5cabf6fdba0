"""
All that is known of a run, by request id: the Journal's event, what clients saw, what engines computed.

The three are put in order by a scratch database on disk, so that millions of requests are judged in little memory.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import sqlalchemy

from gateway.core import continuation
from gateway.core.usage import MeterEvent
from gateway.stores.database import parse_url

BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Computed:
    """
    What an engine says of a request: *written* tokens of *completion* went into its socket.

    Of one that *goes_on* with another engine's answer, what that had said is a part of its prompt.
    """

    outcome: str
    prompt: int
    cached: int
    completion: int
    written: int
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client says of a try; *told* is the usage at the end of an answer: prompt, cached, completion."""

    tenant: str
    why: str
    has_begun: bool
    words: int
    told: tuple[int, ...]


@dataclass(slots=True)
class Case:
    """Everything about one request id. *events* are counted; *cost_nano* is what the Journal says that it costs."""

    id: str
    events: int = 0
    event: MeterEvent | None = None
    cost_nano: int | None = None
    seen: Seen | None = None
    computed: list[Computed] = field(default_factory=list)


def cases(scratch: Path, database_url: str, journals: Iterable[Path], seen: Path) -> Iterator[Case]:
    """Give every request id that anybody knows, once, in order."""
    connection = sqlite3.connect(scratch)
    connection.executescript("PRAGMA synchronous=OFF; CREATE TABLE computed(id, data); CREATE TABLE seen(id, data)")
    for journal in journals:
        connection.executemany("INSERT INTO computed VALUES (?, ?)", _computed(journal))
    connection.executemany("INSERT INTO seen VALUES (?, ?)", _seen(seen))
    connection.commit()
    known = merge(
        _events(database_url),
        ((each, "computed", data) for each, data in connection.execute("SELECT id, data FROM computed ORDER BY id")),
        ((each, "seen", data) for each, data in connection.execute("SELECT id, data FROM seen ORDER BY id")),
        key=itemgetter(0),
    )
    for request_id, facts in groupby(known, key=itemgetter(0)):
        yield _case(request_id, facts)
    connection.close()


def _case(request_id: str, facts: Iterable[tuple[str, str, Any]]) -> Case:
    case = Case(request_id)
    for _, kind, data in facts:
        if kind == "event":
            case.events += 1
            case.event, case.cost_nano = data
        elif kind == "computed":
            case.computed.append(Computed(*json.loads(data)))
        else:
            tenant, why, begun, words, told = data.split("\t")
            numbers = tuple(map(int, told.split(","))) if told else ()
            case.seen = Seen(tenant, why, begun == "1", int(words), numbers)
    case.computed = whole_answers(case.computed)
    return case


def whole_answers(computed: list[Computed]) -> list[Computed]:
    """
    Take what went on with an answer for that answer as it stood at the end: its prompt is the first engine's.

    What cannot be, because nobody had written that much of an answer before, stays as the engine says it.
    """
    answers = [each for each in computed if not each.goes_on]
    for leg in sorted((each for each in computed if each.goes_on), key=lambda each: each.prompt):
        prompt = answers[0].prompt if answers else 0
        kept = leg.prompt - prompt
        if not 0 <= kept <= max((each.written for each in answers), default=-1):
            answers.append(leg)
            continue
        cached = min(leg.cached, prompt)
        answers.append(Computed(leg.outcome, prompt, cached, kept + leg.completion, kept + leg.written))
    return answers


def _computed(journal: Path) -> Iterator[tuple[str, str]]:
    """Read an engine's journal, without the readiness requests of its agent: those have no id of a gateway's."""
    names = ("outcome", "prompt_tokens", "cached_tokens", "completion_tokens", "written_tokens")
    with journal.open() as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["request"].startswith("req_"):
                goes_on = entry["path"] == continuation.PATH  # clients of a run ask for chats alone
                if entry["outcome"] == "crashed" and entry["is_whole"]:
                    entry["outcome"] = "done"  # nothing was left to say but what every frame had said: the usage
                yield entry["request"], json.dumps([*(entry[name] for name in names), goes_on])


def _seen(file: Path) -> Iterator[tuple[str, str]]:
    with file.open() as lines:
        for line in lines:
            request_id, _, rest = line.rstrip("\n").partition("\t")
            yield request_id, rest


def _events(database_url: str) -> Iterator[tuple[str, str, tuple[MeterEvent, int | None]]]:
    """Stream the Journal in the order of bytes, which is not every database's own."""
    engine = sqlalchemy.create_engine(parse_url(database_url))
    collation = "C" if engine.dialect.name == "postgresql" else "BINARY"
    query = sqlalchemy.text(f'SELECT * FROM meter_events ORDER BY id COLLATE "{collation}"')
    with engine.connect() as connection:
        for row in connection.execution_options(stream_results=True, yield_per=BATCH).execute(query).mappings():
            values = {name: row[name] for name in MeterEvent.__dataclass_fields__}
            values["is_stream"] = bool(values["is_stream"])
            yield row["id"], "event", (MeterEvent(**values), row.get("cost_nano"))
    engine.dispose()
