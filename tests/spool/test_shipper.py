"""From the spool into a real Journal, through outages, restarts and other processes' deaths."""

import asyncio

import pytest

from gateway.core.usage import Usage
from gateway.ports.journal import EngineReading
from gateway.stores.shipper import READINGS_MAX, Shipper
from gateway.stores.spool import FileSpool
from gateway.stores.spool_format import encode_close, scan
from gateway.stores.spool_writer import QUARANTINE
from gateway.stores.sql_work import SqlWork
from tests.meter_events import event, opened
from tests.spool.test_recovery import abandoned, flipped
from tests.spool.test_spool import segments
from tests.waiting import until


@pytest.fixture
async def make(root, sql):
    """Make a started spool and shipper; what a test does not stop itself is stopped after it."""
    made = []

    async def make(**options):
        spool = FileSpool(root, "g1", **{"segment_bytes": 8192, **options})
        shipper = Shipper(spool, sql.journal, interval_s=0.02, batch=50, adopt_every_s=0.05)
        made.append(shipper)
        await shipper.start()
        return spool, shipper

    yield make
    for shipper in made:
        await shipper.aclose(limit_s=0.1)


async def stop(spool, shipper):
    await shipper.aclose()
    await spool.aclose()


async def test_every_event_arrives_once_and_its_files_go(make, sql):
    spool, shipper = await make()
    await asyncio.gather(*(spool.close(event(number)) for number in range(500)))
    await until(lambda: not shipper.backlog_events)
    assert sql.ids() == [event(number).id for number in range(500)]
    assert (shipper.shipped_events, shipper.replayed_events, shipper.backlog_age_s) == (500, 0, 0.0)
    await until(lambda: len(segments(spool)) == 1)
    await stop(spool, shipper)
    assert not spool.folder.exists()


async def test_while_the_journal_is_away_events_wait_and_the_state_says_so(make, sql):
    spool, shipper = await make()
    with sql.away():
        await spool.close(event(1))
        await until(lambda: not shipper.is_shipping)
        assert shipper.backlog_events == 1
        assert shipper.backlog_age_s > 1
        assert spool.is_writable
    await until(lambda: shipper.is_shipping and not shipper.backlog_events)
    assert sql.ids() == [event(1).id]
    await stop(spool, shipper)


async def test_a_long_outage_is_not_held_in_memory(make, sql):
    spool, shipper = await make(memory_events_max=40)
    with sql.away():
        for number in range(0, 600, 10):
            await asyncio.gather(*(spool.close(event(number + step)) for step in range(10)))
        assert spool.backlog._in_memory < 40 + 50, "at most the limit and the segment being written"
        assert shipper.backlog_events == 600
    await until(lambda: not shipper.backlog_events)
    assert sql.ids() == [event(number).id for number in range(600)]
    await stop(spool, shipper)
    assert not spool.folder.exists()


async def test_a_file_that_rots_while_the_journal_is_away_is_kept_aside_and_the_rest_arrives(make, sql, root):
    spool, shipper = await make(memory_events_max=1)
    with sql.away():
        for number in range(60):
            await spool.close(event(number))
        second = sorted(segments(spool))[1]
        lost = scan(second.read_bytes()).records[0].event.id
        second.write_bytes(flipped(second.read_bytes(), 100))
    await until(lambda: not shipper.backlog_events)
    assert set(sql.ids()) == {event(number).id for number in range(60)} - {lost}
    await until(lambda: shipper.quarantined_segments == 1)
    assert shipper.damaged_bytes > 0
    assert len(list((root / QUARANTINE).iterdir())) == 1
    await stop(spool, shipper)


async def test_replays_are_counted_and_change_nothing(make, sql):
    sql.journal.append([event(1, completion_tokens=7)])
    spool, shipper = await make()
    await spool.close(event(1))
    await until(lambda: shipper.shipped_events)
    assert shipper.replayed_events == 1
    assert sql.rows()[0]["completion_tokens"] == 7
    await stop(spool, shipper)


async def test_a_dead_processes_spool_is_recovered_at_the_start(make, sql, root):
    folder = abandoned(root, b"".join(encode_close(event(number)) for number in range(120)))
    spool, shipper = await make()
    assert shipper.backlog_events == 120, "known before the first is shipped"
    assert shipper.backlog_age_s >= 0
    await until(lambda: not shipper.backlog_events)
    assert sql.ids() == [event(number).id for number in range(120)]
    assert shipper.recovered_events == 120
    assert not folder.exists()
    await stop(spool, shipper)


async def test_a_process_that_dies_later_is_recovered_by_a_living_one(make, sql, root):
    spool, shipper = await make()
    other = FileSpool(root, "g2")
    other.open(opened(1))
    other.progress(opened(1).id, Usage(10, 3))
    await other.close(event(2))
    await other.flush()
    assert not sql.ids()
    await other.aclose()
    await until(lambda: len(sql.ids()) == 2)
    interrupted = sql.rows()[0]
    assert (interrupted["outcome"], interrupted["flag"], interrupted["completion_tokens"]) == (
        "interrupted",
        "interrupted",
        3,
    )
    await until(lambda: not other.folder.exists())
    await stop(spool, shipper)


async def test_nothing_of_a_dead_process_is_removed_before_the_journal_has_it(make, sql, root):
    folder = abandoned(root, encode_close(event(1)))
    with sql.away():
        spool, shipper = await make()
        await until(lambda: not shipper.is_shipping)
        assert shipper.backlog_events == 1
        await stop(spool, shipper)
        assert (folder / "00000001.seg").exists()
    spool, shipper = await make()
    await until(lambda: not shipper.backlog_events)
    assert sql.ids() == [event(1).id]
    await stop(spool, shipper)


async def test_damage_is_counted_and_the_rest_arrives(make, sql, root):
    abandoned(root, flipped(encode_close(event(1)), 30) + encode_close(event(2)))
    spool, shipper = await make()
    await until(lambda: not shipper.backlog_events)
    assert sql.ids() == [event(2).id]
    await until(lambda: shipper.quarantined_segments == 1)
    assert shipper.damaged_bytes == len(encode_close(event(1)))
    assert len(list((root / QUARANTINE).iterdir())) == 1
    await stop(spool, shipper)


async def test_two_gateways_recover_a_spool_together_without_doubling_it(make, sql, root):
    for number in range(0, 300, 100):
        abandoned(root, b"".join(encode_close(event(number + step)) for step in range(100)))
    pairs = await asyncio.gather(make(), make())
    await until(lambda: len(sql.ids()) == 300 and not any(shipper.backlog_events for _, shipper in pairs))
    assert sum(shipper.recovered_events for _, shipper in pairs) == 300
    for pair in pairs:
        await stop(*pair)


async def test_what_cannot_be_shipped_at_a_stop_is_there_at_the_next_start(make, sql):
    spool, shipper = await make()
    with sql.away():
        await spool.close(event(1))
        await shipper.aclose(limit_s=1)
        await spool.aclose()
    assert spool.folder.exists()
    spool, shipper = await make()
    await until(lambda: sql.ids() == [event(1).id])
    await stop(spool, shipper)


async def test_a_stop_ships_what_was_noted_a_moment_before(make, sql):
    spool, shipper = await make()
    spool.note(event(1))
    await stop(spool, shipper)
    assert sql.ids() == [event(1).id]


async def test_an_ending_that_a_failing_disk_refuses_goes_straight_to_the_journal(make, sql):
    """A kill -9 right behind the last byte must not take it: it is durable somewhere by then."""
    spool, shipper = await make()
    aside = spool.folder.rename(spool.folder.with_name(".aside"))
    await spool.close(event(1))
    assert sql.ids() == [event(1).id]
    aside.rename(spool.folder)
    await stop(spool, shipper)


async def test_what_a_failing_disk_refused_goes_straight_to_the_journal_at_a_stop(make, sql):
    spool, shipper = await make()
    aside = spool.folder.rename(spool.folder.with_name(".aside"))
    spool.note(event(1))
    await shipper.aclose()
    assert sql.ids() == [event(1).id]
    aside.rename(spool.folder)
    await spool.aclose()


async def test_a_stop_does_not_outlast_its_limit(make, sql):
    spool, shipper = await make()
    with sql.away():
        await spool.close(event(1))
        async with asyncio.timeout(3):
            await shipper.aclose(limit_s=0.5)
    await spool.aclose()


async def test_readings_arrive_and_the_newest_survive_an_outage(make, sql):
    spool, shipper = await make()
    with sql.away():
        for read_ms in range(READINGS_MAX + 10):
            shipper.reading(reading(read_ms))
        await until(lambda: not shipper.is_shipping)
    work = SqlWork(sql.database)
    await until(lambda: work.readings_at(1 << 50) == [reading(READINGS_MAX + 9)], within_s=30)
    assert work.readings_at(9) == []
    assert work.readings_at(10) == [reading(10)]
    await stop(spool, shipper)


def reading(read_ms):
    return EngineReading(
        worker="w1",
        pool="p",
        started_ms=0,
        read_ms=read_ms,
        prompt_tokens=1,
        completion_tokens=1,
        probe_prompt_tokens=0,
        probe_completion_tokens=0,
    )
