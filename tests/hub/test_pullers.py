"""Many who want the same model: one download, whoever dies in the middle of it."""

import json
import os
import shutil
import signal
import threading
import time

import pytest

from tests.hub.conftest import MODEL, Puller
from tests.servers.disks import Ballast, can_mount, small_disk
from tests.servers.hub_server import small_model
from workers.errors import WorkerError
from workers.hub import lock as locks
from workers.hub.checking import problems
from workers.hub.lock import LockLost, Owner, current_owner, held
from workers.hub.pull import DISK_RESERVE_BYTES
from workers.hub.store import ModelStore

LARGE = "model-00001-of-00002.safetensors"


def answer(process):
    out, err = process.communicate(timeout=120)
    assert out, err
    return json.loads(out.splitlines()[-1]), err


def in_any_partial(store):
    return [path for path in (store.root / ".partial").glob("*") if any(path.iterdir())]


def wait_for_owner(path, deadline_s=60):
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if owner := current_owner(path):
            return owner
        time.sleep(0.05)
    raise AssertionError("nobody took the lock")


def test_pullers_at_once_make_one_download_and_the_others_say_for_whom_they_wait(hub, store, start_pull):
    files = small_model(megabytes=2)
    commit = hub.put(MODEL, files)
    hub.faults.chunk_s = 0.02
    pullers = [start_pull() for _ in range(3)]
    answers, said = zip(*map(answer, pullers), strict=True)
    assert {given["path"] for given in answers} == {str(store.folder(MODEL, commit))}
    assert sum(hub.sent.values()) == sum(map(len, files.values()))
    owner = rf"is being downloaded by process {'|'.join(str(puller.pid) for puller in pullers)}"
    assert sum("is being downloaded by process" in text for text in said) == 2, owner


def test_a_puller_that_is_killed_leaves_its_parts_to_the_next_which_takes_over_at_once(hub, store, start_pull):
    files = small_model(megabytes=3)
    commit = hub.put(MODEL, files)
    hub.faults.chunk_s = 0.01
    first = start_pull()
    assert hub.is_serving.wait(60)
    while sum(hub.sent.values()) < 1_000_000:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert in_any_partial(store)
    assert list(store.models()) == []
    hub.faults.chunk_s = 0
    given, said = answer(start_pull())
    assert given == {"path": str(store.folder(MODEL, commit))}
    stored = next(store.models())
    assert problems(stored.folder, stored.manifest.files) == {}
    assert "is being downloaded by" not in said  # seen to be gone, not waited out
    assert max(hub.resumed) > 0
    assert current_owner(store.locks(MODEL, commit)) is None


def test_an_owner_elsewhere_is_waited_for_while_its_beat_moves_and_taken_over_when_it_stands(tmp_path):
    elsewhere = Owner(host="node-7", pid=41, started=time.time(), bytes_done=43, bytes_total=100)
    stop = threading.Event()
    write_beats(tmp_path / "1", elsewhere, 0)
    waited = []

    def on_wait(owner):
        waited.append((owner.beat, str(owner)))

    def beat():
        for number in range(1, 8):
            write_beats(tmp_path / "1", elsewhere, number)
            stop.wait(0.1)

    beating = threading.Thread(target=beat)
    beating.start()
    with held(tmp_path, on_wait, expiry_s=3.0, poll_s=0.02):
        assert waited[-1][0] == 7  # only after the last beat
        assert "process 41 on node-7" in waited[0][1]
        assert "43 % there" in waited[0][1]
    beating.join()


def write_beats(path, owner, number):
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({**vars_of(owner), "beat": number}))
    draft.replace(path)


def vars_of(owner):
    return {name: getattr(owner, name) for name in owner.__slots__}


def test_an_owner_that_slept_through_its_lease_finds_out_and_stops(tmp_path):
    with held(tmp_path, lambda _owner: None) as lock:
        (tmp_path / "2").write_text("{}")  # somebody else took the next number
        with pytest.raises(LockLost, match="took over"):
            lock.check()
    assert (tmp_path / "2").read_text() == "{}"  # and leaves that one's lock alone


def test_those_who_find_a_stale_lock_at_the_same_moment_get_it_one_after_another(tmp_path):
    gone = Owner(host="x", pid=2**22 + 1, kernel=locks._kernel(), born="1")
    write_beats(tmp_path / "1", gone, 3)
    inside, most = [], []

    def take():
        with held(tmp_path, lambda _owner: None, poll_s=0.02):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    takers = [threading.Thread(target=take) for _ in range(8)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert most == [1] * 8


def test_a_lock_that_is_cut_in_the_writing_expires_too(tmp_path):
    (tmp_path / "1").write_text("")
    with held(tmp_path, lambda _owner: None, expiry_s=0.3, poll_s=0.02):
        assert current_owner(tmp_path).pid == os.getpid()


def test_who_may_not_wait_is_told_who_has_it(tmp_path):
    second = held(tmp_path, lambda _owner: None, may_wait=False)
    with held(tmp_path, lambda _owner: None), pytest.raises(WorkerError, match=rf"in use by process {os.getpid()} on"):
        second.__enter__()


def test_a_disk_that_fills_up_in_mid_download_is_told_and_what_came_is_kept(hub, tmp_path):
    if not can_mount(tmp_path / "probe"):
        pytest.skip("a small disk needs root and mount")
    files = small_model(megabytes=8)
    hub.put(MODEL, files)
    hub.faults.chunk_s = 0.01
    with small_disk(tmp_path / "disk", DISK_RESERVE_BYTES + (20 << 20)) as disk:
        puller = Puller(hub, ModelStore(disk / "store"))
        ballasts = []

        def fill():
            hub.is_serving.wait(60)
            ballasts.append(Ballast(disk, shutil.disk_usage(disk).free - (3 << 20)))

        filling = threading.Thread(target=fill)
        filling.start()
        with pytest.raises(WorkerError, match="The disk became full while Qwen/Qwen3-Test was downloaded"):
            puller.fetch()
        filling.join()
        assert in_any_partial(puller.store)
        ballasts[0].drop()
        hub.faults.chunk_s = 0
        stored = puller.fetch()
        assert problems(stored.folder, stored.manifest.files) == {}
        assert max(hub.resumed) > 0


def test_too_small_a_disk_is_told_before_the_first_byte(hub, puller):
    hub.put(MODEL, {"config.json": b"{}", "model.safetensors": b"x" * 10_000})
    listed = hub.commits[MODEL, hub.commit(MODEL, "master")]
    listed["model.safetensors"] = _Huge(listed["model.safetensors"])
    with pytest.raises(WorkerError, match=r"needs 1000\.0 TB more on the disk of .* are free\. Free some"):
        puller.fetch()
    assert hub.sent == {}


class _Huge(bytes):
    """Bytes that say they are a petabyte."""

    def __len__(self):
        return 10**15
