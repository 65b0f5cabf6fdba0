"""Objects on disk: put once, never seen in part, private, gone when they have expired."""

import asyncio
import errno
import os

import pytest

from gateway.errors import StoreUnavailable
from gateway.stores.objects import DRAFT_PREFIX, FileObjects
from tests.jobs.conftest import BODY

NOW_MS = 1_700_000_000_000
LATER_MS = NOW_MS + 60_000


class Clock:
    now_ms = NOW_MS


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def objects(tmp_path, clock):
    objects = FileObjects(tmp_path / "objects", now_ms=lambda: clock.now_ms)
    yield objects
    objects.close()


async def test_of_many_that_put_at_once_exactly_one_does_and_all_read_its_bytes(objects):
    bodies = [bytes([number]) * 100_000 for number in range(20)]
    took = await asyncio.gather(*(objects.put("results/r1", body, LATER_MS, is_vital=True) for body in bodies))
    assert sum(took) == 1
    assert await objects.get("results/r1") == bodies[took.index(True)]
    assert not [path for path in (objects.folder / "results").iterdir() if path.name.startswith(DRAFT_PREFIX)]


async def test_what_has_expired_is_not_given_and_leaves_room_for_another(objects, clock):
    await objects.put("results/r1", b"old", LATER_MS, is_vital=True)
    clock.now_ms = LATER_MS
    assert await objects.get("results/r1") is None
    assert await objects.put("results/r1", b"new", LATER_MS + 1, is_vital=True)
    assert await objects.get("results/r1") == b"new"


async def test_sweeping_deletes_what_has_expired_and_the_drafts_of_writers_that_died(objects, clock):
    await objects.put("results/r1", b"1", LATER_MS, is_vital=True)
    await objects.put("requests/r2", b"2", LATER_MS + 1, is_vital=False)
    draft = objects.folder / "results" / f"{DRAFT_PREFIX}dead"
    draft.write_bytes(b"half")
    os.utime(draft, (NOW_MS / 1000, NOW_MS / 1000))
    clock.now_ms = LATER_MS
    assert await objects.sweep() == 1
    clock.now_ms = LATER_MS + 3_600_000
    assert await objects.sweep() == 2
    assert not [path for path in objects.folder.rglob("*") if path.is_file()]


async def test_deleting_is_idempotent_and_what_is_not_there_is_nothing(objects):
    assert await objects.get("results/none") is None
    await objects.put("results/r1", b"1", LATER_MS, is_vital=True)
    for _ in range(2):
        await objects.delete("results/r1")
    assert await objects.get("results/r1") is None


async def test_only_what_is_vital_takes_the_last_room_of_a_disk(tmp_path):
    objects = FileObjects(tmp_path / "objects", free_bytes_min=1 << 60)
    later_ms = 1 << 50
    with pytest.raises(StoreUnavailable, match="to spare"):
        await objects.put("requests/r1", b"1", later_ms, is_vital=False)
    assert await objects.put("results/r1", b"1", later_ms, is_vital=True)
    objects.close()


@pytest.mark.parametrize("name", ["r1", "results/../../etc", "results/", "results/a/b", "results/.draft"])
async def test_a_name_cannot_lead_out_of_its_folder(objects, name):
    with pytest.raises(AssertionError):
        await objects.get(name)


async def test_a_failing_disk_is_an_unavailable_store(objects):
    objects.folder.mkdir()
    (objects.folder / "results").write_bytes(b"no folder")
    with pytest.raises(StoreUnavailable, match=os.strerror(errno.EEXIST)):
        await objects.put("results/r1", b"1", LATER_MS, is_vital=True)


@pytest.mark.redis
async def test_a_result_that_cannot_be_kept_waits_until_it_can_and_is_not_made_again(start_lane):
    async with start_lane(count=1) as (path, client):
        in_the_way = path.gateway._objects.folder / "results"
        in_the_way.parent.mkdir(exist_ok=True)
        ticket = await client.ticket(BODY | {"max_tokens": 200})
        await client.until(ticket, "running")
        in_the_way.write_bytes(b"no folder")
        while not await path.engines[0].journal():
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        assert (await client.status(ticket))["status"] == "running"
        in_the_way.unlink()
        await client.until(ticket, "completed")
        assert len(await path.engines[0].journal()) == 1
        [event] = (await path.events()).values()
    assert event["completion_tokens"] == 200
