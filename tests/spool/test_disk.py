"""The spool's disk fills up: no request is dispatched that could not be recorded, nothing dispatched is lost."""

import asyncio

import pytest

from gateway.core.usage import Usage
from gateway.errors import StoreUnavailable
from gateway.stores.spool import FileSpool, SpoolState
from gateway.stores.spool_writer import free_bytes
from tests.meter_events import event, opened
from tests.servers.disks import Ballast, can_mount, small_disk
from tests.spool.test_spool import failing_disk, on_disk, ship_all
from tests.waiting import until

BALLAST = 1 << 30
MARGIN = BALLAST // 2  # others write to the same disk meanwhile


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MiB; the spool's home on it."""
    if not can_mount(tmp_path / "probe"):
        pytest.skip("only root may mount a small disk; failing_disk() stands in for it elsewhere")
    with small_disk(tmp_path / "disk", 1 << 20) as folder:
        yield folder


def ids(spool):
    return {record.event.id for record in on_disk(spool) if hasattr(record, "event")}


async def test_requests_are_refused_before_the_disk_is_full_and_taken_again_by_itself(tmp_path):
    """Whoever fills it; what is under way ends as ever."""
    spool = FileSpool(tmp_path / "spool", "g1", free_bytes_min=free_bytes(tmp_path) - MARGIN)
    await spool.open(opened(1))
    ballast = Ballast(tmp_path, BALLAST)
    await until(lambda: spool.state is SpoolState.DISK_LOW, within_s=5)
    with pytest.raises(StoreUnavailable, match=r"disk has \d+ bytes free, less than the \d+ kept"):
        spool.open(opened(2))
    spool.progress(opened(1).id, Usage(1, 1))
    await spool.close(event(1))
    assert event(1).id in ids(spool)
    ballast.drop()
    await until(lambda: spool.is_writable, within_s=5)
    await spool.open(opened(3))
    await spool.close(event(3))
    await spool.aclose()


async def test_each_state_says_what_it_is(root):
    spool = FileSpool(root, "g1", segment_bytes=4096, bytes_max=16384)
    assert spool.state is SpoolState.OK
    while not spool.is_full:
        await spool.close(event(1))
    assert spool.state is SpoolState.BUDGET_USED
    with pytest.raises(StoreUnavailable, match="16384 bytes are full"):
        spool.open(opened(2))
    with failing_disk():
        closing = asyncio.create_task(spool.close(event(2)))
        await until(lambda: spool.state is SpoolState.DISK_FAILED)
        with pytest.raises(StoreUnavailable, match="last write to its disk failed"):
            spool.open(opened(3))
    await closing
    await until(lambda: spool.state is SpoolState.BUDGET_USED)
    await ship_all(spool)
    assert spool.state is SpoolState.OK
    await spool.aclose()


async def test_denials_leave_the_rest_of_the_disk_to_what_was_dispatched(root, tmp_path):
    spool = FileSpool(root, "g1", free_bytes_min=1 << 60)
    spool.note(event(1))
    assert (spool.notes_dropped, spool.state) == (1, SpoolState.DISK_LOW)
    await spool.close(event(2))
    assert ids(spool) == {event(2).id}
    await spool.aclose()


async def test_a_disk_that_is_full_to_the_last_byte_loses_no_ending(disk):
    """The budget alone would allow for more than the disk holds: writing fails, and everything waits for room."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (512 << 10))
    spool = FileSpool(disk / "spool", "g1", segment_bytes=64 << 10)
    number, closing = 0, []
    while spool.state is SpoolState.OK:
        closing = [asyncio.create_task(spool.close(event(each))) for each in range(number, number + 20)]
        number += 20
        await until(lambda those=closing: all(each.done() for each in those) or spool.state is SpoolState.DISK_FAILED)
    assert free_bytes(disk) < 64 << 10
    with pytest.raises(StoreUnavailable):
        spool.open(opened(number))
    closing += [asyncio.create_task(spool.close(event(each))) for each in range(number, number + 20)]
    ballast.unlink()
    await asyncio.gather(*closing)
    await until(lambda: spool.is_writable)
    await spool.flush()
    assert ids(spool) == {event(each).id for each in range(number + 20)}
    assert spool.backlog.events == number + 20
    await spool.aclose()


async def test_what_is_kept_of_a_small_disk_takes_the_endings_of_all_that_is_under_way(disk):
    spool = FileSpool(disk / "spool", "g1", free_bytes_min=256 << 10)
    await asyncio.gather(*(spool.open(opened(number)) for number in range(200)))
    ballast = Ballast(disk, free_bytes(disk) - (200 << 10))
    await until(lambda: spool.state is SpoolState.DISK_LOW)
    await asyncio.gather(*(spool.close(event(number)) for number in range(200)))
    assert ids(spool) == {event(number).id for number in range(200)}
    assert spool.state is SpoolState.DISK_LOW
    ballast.drop()
    await until(lambda: spool.is_writable)
    await spool.aclose()
