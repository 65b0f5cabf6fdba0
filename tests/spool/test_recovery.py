"""What a dead process left in its spool."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gateway.core.usage import Usage
from gateway.stores.spool_format import encode_close, encode_open, encode_progress
from gateway.stores.spool_recovery import adopt
from gateway.stores.spool_writer import QUARANTINE, make_locked_folder
from tests.meter_events import event, opened

AT_MS = opened().arrived_ms


def abandoned(root, *segments: bytes):
    """Make a folder as a process that was killed leaves it."""
    folder, lock = make_locked_folder(root, "g1")
    for number, data in enumerate(segments, 1):
        (folder / f"{number:08d}.seg").write_bytes(data)
    os.close(lock)
    return folder


def recovered(root):
    """Adopt the one spool there is, read it to its end and give it and its events."""
    (adopted,) = adopt(root)
    events = []
    while batch := adopted.next_batch(2):
        events += batch
        adopted.committed()
    return adopted, events


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def test_closed_events_come_in_order_over_all_segments(root):
    abandoned(root, encode_close(event(1)) + encode_close(event(2)), encode_close(event(3)))
    adopted, events = recovered(root)
    assert events == [event(1), event(2), event(3)]
    assert adopted.events_estimated == 3


def test_an_open_request_settles_at_its_last_progress(root):
    usages = [Usage(10, 5, 2, 1), Usage(10, 9, 4, 3), Usage(10, 7, 2, 1)]
    abandoned(
        root,
        encode_open(opened(1), AT_MS) + encode_progress(opened(1).id, usages[0], AT_MS + 200),
        encode_progress(opened(1).id, usages[1], AT_MS + 300) + encode_progress(opened(1).id, usages[2], AT_MS + 400),
    )
    _, (settled,) = recovered(root)
    assert settled == replace(
        opened(1),
        outcome="interrupted",
        status=502,
        flag="interrupted",
        ended_ms=AT_MS + 400,
        prompt_tokens=10,
        completion_tokens=9,
        cached_tokens=4,
        reasoning_tokens=3,
    )


def test_a_clock_that_was_set_back_makes_no_negative_duration_and_loses_no_progress(root):
    """The largest progress counts, whatever the times say; nothing ends before it arrived."""
    identity, hour_ms = opened(1).id, 3_600_000
    abandoned(
        root,
        encode_open(opened(1), AT_MS)
        + encode_progress(identity, Usage(10, 8), AT_MS - hour_ms)
        + encode_progress(identity, Usage(10, 9), AT_MS - 2 * hour_ms),
        encode_open(opened(2), AT_MS - hour_ms),
    )
    _, (first, second) = recovered(root)
    assert (first.completion_tokens, first.ended_ms) == (9, AT_MS)
    assert second.ended_ms == AT_MS


def test_an_open_request_without_progress_costs_nothing(root):
    abandoned(root, encode_open(opened(1, images=2, audio_ms=1500), AT_MS + 100))
    _, (settled,) = recovered(root)
    assert (settled.outcome, settled.flag, settled.ended_ms) == ("interrupted", "none", AT_MS + 100)
    assert (settled.prompt_tokens, settled.completion_tokens) == (0, 0)
    assert (settled.images, settled.audio_ms) == (0, 0)


def test_an_open_request_that_had_delivered_something_costs_its_images_and_audio_too(root):
    request = opened(1, images=2, audio_ms=1500)
    abandoned(root, encode_open(request, AT_MS) + encode_progress(request.id, Usage(10, 5), AT_MS + 200))
    _, (settled,) = recovered(root)
    assert (settled.flag, settled.images, settled.audio_ms) == ("interrupted", 2, 1500)


def test_a_closed_request_is_not_settled_again(root):
    abandoned(root, encode_open(opened(1), 100), encode_progress(opened(1).id, Usage(1, 1), 2) + encode_close(event(1)))
    _, events = recovered(root)
    assert events == [event(1)]


def test_a_progress_whose_open_is_not_there_is_passed_over(root):
    abandoned(root, encode_progress("req_x", Usage(1, 1), 2) + encode_close(event(1)))
    assert recovered(root)[1] == [event(1)]


def test_a_torn_tail_is_no_damage(root):
    folder = abandoned(root, encode_close(event(1)) + encode_close(event(2))[:-1])
    adopted, events = recovered(root)
    assert events == [event(1)]
    assert (adopted.quarantined_segments, adopted.torn_bytes) == (0, len(encode_close(event(2))) - 1)
    adopted.discard()
    assert not folder.exists()
    assert not (root / QUARANTINE).exists()


@pytest.mark.parametrize("at", [0, 5, 40], ids=["in the length", "in the checksum", "in the payload"])
def test_damage_in_the_middle_is_kept_aside_and_all_around_it_is_used(root, at):
    damaged = encode_close(event(1)) + flipped(encode_close(event(2)), at) + encode_close(event(3))
    folder = abandoned(root, damaged, encode_close(event(4)))
    adopted, events = recovered(root)
    assert events == [event(1), event(3), event(4)]
    assert adopted.quarantined_segments == 1
    adopted.discard()
    assert not folder.exists()
    (kept,) = (root / QUARANTINE).iterdir()
    assert kept.name == f"{folder.name}-00000001.bad"
    assert kept.read_bytes() == damaged


def test_a_segment_cut_short_that_is_not_the_last_is_damage(root):
    """Only the file being written when the process died may end in the middle of a record."""
    abandoned(root, encode_close(event(1))[:-1], encode_close(event(2)))
    adopted, events = recovered(root)
    assert events == [event(2)]
    assert adopted.quarantined_segments == 1


def test_a_batch_is_given_again_until_it_is_committed(root):
    abandoned(root, encode_close(event(1)) + encode_close(event(2)))
    (adopted,) = adopt(root)
    assert adopted.next_batch(1) == [event(1)] == adopted.next_batch(1)
    adopted.committed()
    assert adopted.next_batch(1) == [event(2)]


def test_a_living_process_is_left_alone(root):
    folder, lock = make_locked_folder(root, "g1")
    assert adopt(root) == []
    os.close(lock)
    assert [adopted.folder for adopted in adopt(root)] == [folder]


def test_of_many_that_adopt_at_once_exactly_one_gets_each_spool(root):
    folders = {abandoned(root, encode_close(event(number))) for number in range(5)}
    start = threading.Barrier(8)

    def race(_):
        start.wait()
        return adopt(root)

    with ThreadPoolExecutor(8) as pool:
        adopted = [spool for spools in pool.map(race, range(8)) for spool in spools]
    assert sorted(spool.folder for spool in adopted) == sorted(folders)


def test_one_who_comes_too_late_does_not_adopt_what_is_being_removed(root):
    """Both may have opened the lock's file before the first one took the lock, shipped and removed all."""
    folder = abandoned(root, encode_close(event(1)))
    for _ in range(200):
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(lambda: [spool.discard() for spool in adopt(root)])
            second = pool.submit(adopt, root)
            first.result()
            assert all(spool.folder.exists() for spool in second.result())
            for spool in second.result():
                spool.release()
        folder = abandoned(root, encode_close(event(1))) if not folder.exists() else folder


def test_a_released_spool_can_be_adopted_again(root):
    abandoned(root, encode_close(event(1)))
    (adopted,) = adopt(root)
    assert adopt(root) == []
    adopted.release()
    assert len(adopt(root)) == 1


def test_no_spools_at_all_is_fine(root):
    assert adopt(root) == []
