"""Rot anywhere in a real segment: every undamaged record is used, and the damage is never silent."""

import asyncio
import json
import random
import subprocess
import sys

import pytest

from gateway.core.usage import Usage
from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from gateway.stores.spool_format import Closed, Opened, Progressed, scan
from gateway.stores.spool_recovery import adopt
from gateway.stores.spool_writer import QUARANTINE, count_quarantined
from tests.meter_events import event, opened
from tests.spool.test_recovery import abandoned, flipped
from tests.spool.test_shipper import stop
from tests.spool.test_spool import segments
from tests.waiting import until

SLUICE = (sys.executable, "-m", "gateway")


@pytest.fixture
async def real_segment(root):
    """The bytes of a segment that a spool wrote: requests that overlap, one of them still open."""
    spool = FileSpool(root, "writer")
    await asyncio.gather(*(spool.open(opened(number)) for number in range(3)))
    spool.progress(opened(1).id, Usage(10, 5))
    await spool.close(event(0))
    spool.note(event(7, outcome="queue_full", attempts=0))
    spool.progress(opened(2).id, Usage(10, 7, 4, 1))
    await spool.close(event(1, model="\N{CJK UNIFIED IDEOGRAPH-5343} \\ \" ' "))
    (path,) = segments(spool)
    data = path.read_bytes()
    for number in (1, 2):
        await spool.close(event(number))
    for segment in list(spool.backlog._segments.values()):
        spool.shipped(segment, len(segment.closed))
    await spool.aclose()
    return data


def frames(data):
    """Where each record of a sound segment lies, as (from, to)."""
    ends, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        ends.append((at, at + 8 + length))
        at += 8 + length
    return ends


async def test_a_bit_that_flips_anywhere_loses_the_one_record_it_is_in_and_says_where(real_segment):
    whole, bounds, random_ = scan(real_segment), frames(real_segment), random.Random(1)
    assert (len(whole.records), whole.damage) == (len(bounds), [])
    for at in range(len(real_segment)):
        broken = bytearray(real_segment)
        broken[at] ^= 1 << random_.randrange(8)
        found = scan(bytes(broken))
        hit = next(number for number, (start, end) in enumerate(bounds) if start <= at < end)
        start, end = bounds[hit]
        assert found.records == whole.records[:hit] + whole.records[hit + 1 :], at
        assert (found.damage, found.torn_bytes) == ([(start, end - start)], 0), at


async def test_a_tail_that_is_cut_off_anywhere_loses_nothing_that_was_whole(real_segment):
    whole, bounds = scan(real_segment), frames(real_segment)
    for at in range(len(real_segment)):
        found = scan(real_segment[:at])
        kept = [number for number, (_, end) in enumerate(bounds) if end <= at]
        assert found.records == [whole.records[number] for number in kept], at
        assert (found.damage, found.torn_bytes) == ([], at - (bounds[kept[-1]][1] if kept else 0)), at


async def test_random_stretches_of_rot_lose_only_the_records_they_touch(real_segment):
    whole, bounds = scan(real_segment), frames(real_segment)
    for seed in range(500):
        random_ = random.Random(seed)
        at, length = random_.randrange(len(real_segment)), random_.randint(1, 1500)
        rot = random_.randbytes(len(real_segment[at : at + length]))
        found = scan(real_segment[:at] + rot + real_segment[at + length :])
        touched = {number for number, (start, end) in enumerate(bounds) if start < at + len(rot) and at < end}
        assert found.records == [record for number, record in enumerate(whole.records) if number not in touched]
        assert found.damaged_bytes + found.torn_bytes == sum(
            bounds[number][1] - bounds[number][0] for number in touched
        )


async def test_a_rotten_end_of_the_last_segment_is_damage_although_a_torn_one_is_not(real_segment, root):
    """It was written whole, and acknowledged; to take it for a crash's would be to skip it in silence."""
    abandoned(root, flipped(real_segment, len(real_segment) - 5))
    (adopted,) = adopt(root)
    list(adopted.events())
    assert (adopted.quarantined_segments, adopted.torn_bytes) == (1, 0)
    assert adopted.damaged_bytes == frames(real_segment)[-1][1] - frames(real_segment)[-1][0]
    adopted.release()


async def test_an_ending_that_rots_in_a_living_spool_is_billed_by_its_last_progress(root, sql):
    """Neither a request that has ended later nor one that is still open is settled by it."""
    spool = FileSpool(root, "g1", segment_bytes=8192, memory_events_max=1)
    shipper = Shipper(spool, sql.journal, interval_s=0.02, adopt_every_s=0.05)
    with sql.away():
        await shipper.start()
        for number in (100, 101, 102):
            await spool.open(opened(number))
        spool.progress(opened(100).id, Usage(10, 3))
        for number in range(30):
            await spool.close(event(number))
        await spool.close(event(100))
        for number in range(30, 60):
            await spool.close(event(number))
        await spool.close(event(101))
        damaged = next(path for path in segments(spool) if Closed(event(100)) in scan(path.read_bytes()).records)
        data = damaged.read_bytes()
        damaged.write_bytes(flipped(data, data.rindex(event(100).id.encode())))
    await until(lambda: not shipper.backlog_events)
    rows = {row["id"]: row for row in sql.rows()}
    assert rows.keys() == {event(number).id for number in (*range(60), 100, 101)}
    assert (rows[event(100).id]["flag"], rows[event(100).id]["completion_tokens"]) == ("interrupted", 3)
    assert rows[event(101).id]["completion_tokens"] == event(101).completion_tokens
    await until(lambda: shipper.quarantined_segments == 1)
    await spool.close(event(102))
    await stop(spool, shipper)
    assert event(102).id in sql.ids()


def run(home, *arguments):
    command = [*SLUICE, "spool", *arguments, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_the_spools_of_a_home_can_be_looked_at_verified_and_exported(real_segment, tmp_path, root):
    """Beside a gateway that runs, and without touching anything."""
    folder = abandoned(root, flipped(real_segment, 200), real_segment[:-3])
    quarantined = root / QUARANTINE / "g0-00000001.bad"
    quarantined.parent.mkdir()
    quarantined.write_bytes(flipped(real_segment, len(real_segment) - 5))
    live = FileSpool(root, "live")
    await live.close(event(1))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    listed, verified = run(tmp_path, "status", "--format", "json"), run(tmp_path, "verify", "--format", "json")
    exported = run(tmp_path, "export", quarantined.name)
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    spools = {each["gateway"]: each for each in json.loads(listed.stdout)["spools"]}
    assert (spools["running"]["events"], spools["gone"]["segments"], spools["gone"]["damaged"]) == (1, 2, 1)
    assert json.loads(listed.stdout)["quarantined"][0]["damaged_bytes"] > 0
    assert verified.returncode == 1
    damage, torn = json.loads(verified.stdout)["unreadable"]
    start, end = frames(real_segment)[0]
    name = f"{folder.name}/00000001.seg"
    assert damage == {"segment": name, "offset": start, "length": end - start, "kind": "damage"}
    assert (torn["segment"], torn["kind"]) == (f"{folder.name}/00000002.seg", "torn")
    records = [json.loads(line) for line in exported.stdout.splitlines()]
    assert [each["record"] for each in records] == [_name(record) for record in scan(real_segment).records[:-1]]
    assert "bytes at offset" in exported.stderr
    assert count_quarantined(root) == 1
    await live.aclose()


def _name(record) -> str:
    return {Opened: "open", Progressed: "progress", Closed: "close"}[type(record)]


@pytest.mark.parametrize("name", ["nothing.bad", "../../etc/passwd", "/etc/passwd"])
def test_a_segment_that_is_none_is_refused_with_a_sentence(tmp_path, name):
    done = run(tmp_path, "export", name)
    assert done.returncode == 1
    assert "sluice spool status" in " ".join(done.stderr.split())


def test_whole_spools_verify_with_status_0(tmp_path, root):
    root.mkdir()
    done = run(tmp_path, "verify")
    assert (done.returncode, done.stdout) == (0, "0 segments of 0 spools were read.\n")
