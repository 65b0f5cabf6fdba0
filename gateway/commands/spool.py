"""`sluice spool`: what lies in the spools of this host, damaged or whole; it only reads."""

import json
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from gateway.commands.output import Format, print_json, print_table
from gateway.commands.records import Home
from gateway.settings import load_settings
from gateway.stores.spool_reading import (
    SegmentReading,
    SpoolReading,
    find_segment,
    read_quarantine,
    read_spools,
    readable_records,
)

SPOOL_COLUMNS = ("spool", "gateway", "segments", "size_bytes", "events", "open", "damaged", "oldest_s")
QUARANTINE_COLUMNS = ("quarantined", "size_bytes", "events", "damaged_bytes")
DAMAGE_COLUMNS = ("segment", "offset", "length", "kind")

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def spool() -> None:
    """Meter events on this host's disk that are not in the database yet. Only reads, also beside running gateways."""


@app.command()
def status(home: Home = None, output: Format = "table") -> None:
    """
    Say what lies in the spools of this home, and which segments are quarantined.

    events are closed and may be in the database already; open are requests without an ending; oldest_s is how long
    ago the oldest file was written to.

    Example: sluice spool status --home /var/lib/sluice
    """
    root = load_settings(home=home).spool_dir
    spools = [_spool_row(each) for each in read_spools(root)]
    quarantined = [_quarantine_row(each) for each in read_quarantine(root)]
    if output == "json":
        print_json({"spools": spools, "quarantined": quarantined})
        return
    print_table(SPOOL_COLUMNS, spools)
    if quarantined:
        print_table(QUARANTINE_COLUMNS, quarantined)


@app.command()
def verify(home: Home = None, output: Format = "table") -> None:
    """
    Read every byte of the spools of this home and say where damage is; exit status 1 if there is any.

    The end of a file that is being written, or that a crash cut short, is shown as torn and is no damage.

    Example: sluice spool verify --home /var/lib/sluice
    """
    spools = read_spools(load_settings(home=home).spool_dir)
    found = [row for each in spools for row in _damage_rows(each)]
    segments = sum(len(each.segments) for each in spools)
    if output == "json":
        print_json({"spools": len(spools), "segments": segments, "unreadable": found})
    else:
        typer.echo(f"{segments} segments of {len(spools)} spools were read.")
        if found:
            print_table(DAMAGE_COLUMNS, found)
    if any(row["kind"] == "damage" for row in found):
        raise typer.Exit(1)


@app.command()
def export(
    segment: Annotated[str, typer.Argument(help="A segment as `status` or `verify` names it.")], home: Home = None
) -> None:
    """
    Print the readable records of a segment, a JSON object a line; what is unreadable goes to standard error.

    Example: sluice spool export gateway-1-6cc2e3a7-00000002.bad > events.jsonl
    """
    records, found = readable_records(find_segment(load_settings(home=home).spool_dir, segment))
    for record in records:
        typer.echo(json.dumps(record, ensure_ascii=False))
    for offset, length in found.damage:
        typer.echo(f"{segment}: {length} bytes at offset {offset} are damaged", err=True)
    if found.torn_bytes:
        typer.echo(f"{segment}: the last {found.torn_bytes} bytes are of a write that was cut short", err=True)


def _spool_row(spool: SpoolReading) -> dict[str, Any]:
    return {
        "spool": spool.name,
        "gateway": "running" if spool.is_live else "gone",
        "segments": len(spool.segments),
        "size_bytes": spool.size,
        "events": spool.closed,
        "open": spool.open,
        "damaged": len(spool.damaged),
        "oldest_s": None if spool.oldest_s is None else max(0, round(time.time() - spool.oldest_s)),
    }


def _quarantine_row(segment: SegmentReading) -> dict[str, Any]:
    damaged = sum(length for _, length in segment.damage) + segment.torn_bytes
    return {
        "quarantined": segment.path.name,
        "size_bytes": segment.size,
        "events": segment.closed,
        "damaged_bytes": damaged,
    }


def _damage_rows(spool: SpoolReading) -> list[dict[str, Any]]:
    damaged = {each.path for each in spool.damaged}
    return [
        {"segment": f"{spool.name}/{each.path.name}", "offset": offset, "length": length, "kind": kind}
        for each in spool.segments
        for offset, length, kind in _unreadable(each, is_damage=each.path in damaged)
    ]


def _unreadable(segment: SegmentReading, *, is_damage: bool) -> Sequence[tuple[int, int, str]]:
    found = [(offset, length, "damage") for offset, length in segment.damage]
    if segment.torn_bytes:
        kind = "damage" if is_damage and not segment.damage else "torn"
        found.append((segment.size - segment.torn_bytes, segment.torn_bytes, kind))
    return found
