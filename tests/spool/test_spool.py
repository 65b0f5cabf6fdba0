"""The spool of a live process."""

import asyncio
import contextlib
import resource

import pytest

from gateway.core.usage import Usage
from gateway.errors import StoreUnavailable
from gateway.stores.spool import NOTES_PENDING_MAX, FileSpool
from gateway.stores.spool_format import Closed, Opened, Progressed, scan
from tests.meter_events import event, opened
from tests.waiting import until


@pytest.fixture
async def spool(root):
    spool = FileSpool(root, "g1", segment_bytes=8192, bytes_max=1 << 20, now_ms=lambda: 77)
    yield spool
    await spool.aclose()


def on_disk(spool):
    return [record for path in sorted(spool.folder.glob("*.seg")) for record in scan(path.read_bytes()).records]


async def ship_all(spool):
    """Do what the shipper does once the Journal has everything; returns when the files that may go are gone."""
    while segment := spool.backlog.oldest():
        spool.shipped(segment, len(segment.closed))
    await until(lambda: len(segments(spool)) == len(spool.backlog._segments))


def segments(spool):
    return list(spool.folder.glob("*.seg"))


@contextlib.contextmanager
def failing_disk():
    """Let no file of this process grow: every write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_what_close_returned_for_is_on_disk(spool):
    await spool.close(event(1))
    assert on_disk(spool) == [Closed(event(1))]


async def test_records_keep_their_order(spool):
    spool.open(opened(1))
    spool.progress(opened(1).id, Usage(10, 5))
    spool.note(event(2))
    await spool.close(event(1))
    assert on_disk(spool) == [
        Opened(77, opened(1)),
        Progressed(77, opened(1).id, Usage(10, 5)),
        Closed(event(2)),
        Closed(event(1)),
    ]


async def test_what_nobody_waits_for_is_soon_on_disk_too(spool):
    spool.open(opened(1))
    await until(lambda: on_disk(spool) == [Opened(77, opened(1))], within_s=2)


async def test_a_thousand_closes_at_once_share_syncs(spool):
    async with asyncio.timeout(5):
        await asyncio.gather(*(spool.close(event(number)) for number in range(1000)))
    assert {record.event.id for record in on_disk(spool)} == {event(number).id for number in range(1000)}


async def test_leaving_while_waiting_for_the_disk_does_not_undo_the_write(spool):
    waiting = asyncio.create_task(spool.close(event(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    await spool.flush()
    assert waiting.cancelled()
    assert on_disk(spool) == [Closed(event(1))]


async def test_segments_rotate_and_go_once_the_journal_has_them(spool):
    for number in range(60):
        await spool.close(event(number))
    assert len(segments(spool)) > 3
    await ship_all(spool)
    assert len(segments(spool)) == 1
    assert spool.backlog.events == 0


async def test_a_segment_with_an_open_request_stays_until_that_is_closed(spool):
    spool.open(opened(1000))
    for number in range(60):
        await spool.close(event(number))
    await ship_all(spool)
    assert Opened(77, opened(1000)) in on_disk(spool)
    await spool.close(event(1000))
    await ship_all(spool)
    assert Opened(77, opened(1000)) not in on_disk(spool)


async def test_the_last_progress_of_an_open_request_stays_on_disk_with_its_open(spool):
    """Without it a crash would settle the request at too few tokens."""
    identity = opened(1000).id
    spool.open(opened(1000))
    for number in range(120):
        if number % 30 == 0:
            spool.progress(identity, Usage(10, number + 1))
        await spool.close(event(number))
    await ship_all(spool)
    assert len(segments(spool)) == 3
    kept = [record for record in on_disk(spool) if not isinstance(record, Closed)]
    assert kept[0] == Opened(77, opened(1000))
    assert kept[-1] == Progressed(77, identity, Usage(10, 91))


async def test_a_full_spool_takes_no_new_request_but_every_ending(root):
    spool = FileSpool(root, "g1", segment_bytes=4096, bytes_max=16384)
    while not spool.is_full:
        await spool.close(event(1))
    assert not spool.is_writable
    with pytest.raises(StoreUnavailable, match="16384 bytes"):
        spool.open(opened(2))
    await spool.close(event(3))
    await ship_all(spool)
    assert spool.is_writable
    spool.open(opened(4))
    await spool.close(event(4))
    await spool.aclose()


async def test_denials_alone_cannot_fill_the_disk(root):
    spool = FileSpool(root, "g1", segment_bytes=4096, bytes_max=16384)
    for number in range(200):
        spool.note(event(number))
        await spool.flush()
    assert spool.backlog.size < 1.2 * 16384
    assert spool.notes_dropped > 0
    assert spool.backlog.events == 200 - spool.notes_dropped
    await spool.aclose()


async def test_a_failing_disk_refuses_new_requests_and_loses_no_ending(spool):
    spool.open(opened(1))
    await spool.flush()
    with failing_disk():
        closing = asyncio.create_task(spool.close(event(1)))
        await until(lambda: not spool.is_writable)
        with pytest.raises(StoreUnavailable):
            spool.open(opened(2))
        spool.progress(opened(1).id, Usage(1, 1))
        spool.note(event(3))
        await asyncio.sleep(0.5)
        assert not closing.done(), "its last byte would leave, and a crash would take the event"
    await closing
    await until(lambda: spool.is_writable)
    await spool.flush()
    assert {record.event.id for record in on_disk(spool) if isinstance(record, Closed)} == {event(1).id, event(3).id}
    assert spool.backlog.events == 2


async def test_an_ending_that_the_disk_refuses_is_durable_once_the_journal_has_it(spool):
    with failing_disk():
        closing = asyncio.create_task(spool.close(event(1)))
        await until(spool.stranded)
        assert spool.stranded() == [event(1)]
        spool.kept_elsewhere([event(1)])
        await closing
        assert spool.stranded() == []
    await until(lambda: spool.is_writable)
    await spool.flush()
    assert [record.event.id for record in on_disk(spool) if isinstance(record, Closed)] == [event(1).id]


async def test_memory_is_bounded_while_the_disk_fails(root):
    spool = FileSpool(root, "g1")
    with failing_disk():
        closing = asyncio.create_task(spool.close(event(0)))
        await until(lambda: not spool.is_writable)
        for number in range(1, NOTES_PENDING_MAX + 500):
            spool.note(event(number))
    assert spool.notes_dropped >= 499
    await closing
    await until(lambda: spool.is_writable)
    await spool.flush()
    assert spool.backlog.events == NOTES_PENDING_MAX + 500 - spool.notes_dropped
    await spool.aclose()


async def test_what_was_half_written_when_the_disk_failed_is_not_read_twice_or_torn(spool):
    """The kernel writes up to the limit and then refuses: the file is cut back to its last good byte."""
    await spool.close(event(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        closing = asyncio.gather(*(spool.close(event(number)) for number in range(2, 9)))
        await until(lambda: not spool.is_writable)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await closing
    await until(lambda: spool.is_writable)
    assert on_disk(spool) == [Closed(event(number)) for number in range(1, 9)]
    assert all(scan(path.read_bytes()).torn_bytes == 0 for path in spool.folder.glob("*.seg"))


async def test_a_spool_whose_events_are_all_in_the_journal_leaves_nothing_behind(root):
    spool = FileSpool(root, "a/b ü", segment_bytes=8192)
    await spool.close(event(1))
    await ship_all(spool)
    await spool.aclose()
    assert list(root.iterdir()) == []


async def test_a_spool_that_was_not_shipped_stays_for_the_next_start(root):
    spool = FileSpool(root, "g1")
    spool.note(event(1))
    await spool.aclose()
    assert on_disk(spool) == [Closed(event(1))]


async def test_a_clock_that_steps_back_and_forth_breaks_nothing(root):
    """Times in records are for people; order, ages and what counts do not rest on them."""
    clock = iter([1 << 41, 5, 1 << 42, 0, 7] * 100)
    spool = FileSpool(root, "g1", segment_bytes=4096, now_ms=lambda: next(clock))
    for number in range(20):
        spool.open(opened(number))
        spool.progress(opened(number).id, Usage(10, 3))
        spool.progress(opened(number).id, Usage(10, 4))
    await spool.flush()
    assert {request.usage for request in spool.requests.due(1e12, after_s=0, renew_s=1)} == {Usage(10, 4)}
    await asyncio.gather(*(spool.close(event(number, ended_ms=number % 2)) for number in range(20)))
    await ship_all(spool)
    assert (spool.backlog.is_settled, len(spool.requests)) == (True, 0)
    await spool.aclose()


async def test_the_state_can_be_read_off_its_repr(spool):
    spool.open(opened(1))
    await spool.close(event(2))
    assert "[0 pending] <Backlog [1 open, 1 unshipped, 1 segments]>" in repr(spool)
