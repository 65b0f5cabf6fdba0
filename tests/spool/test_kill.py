"""kill -9, at any moment and at any byte: what was acknowledged is in the Journal, once."""

import random
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from tests.spool import cut_victim, victim
from tests.waiting import until


class Victim:
    """One process of `victim`, killed by a timer that starts when it is ready."""

    def __init__(self, root, url, first: int) -> None:
        command = [sys.executable, "-m", victim.__name__, str(root), url, str(first)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while self._process.stdout.readline() != "ready\n":
            assert self._process.poll() is None

    def acknowledged(self, lives_s: float) -> dict[str, int]:
        """Kill it after *lives_s*; give the ids it had printed, with their tokens."""
        threading.Timer(lives_s, self._process.kill).start()
        output = self._process.stdout.read()
        self._process.wait()
        return acks(output)


def killed_at(bytes_max: int, root, first: int) -> dict[str, int]:
    """Run a process of `cut_victim` until a file of its spool would exceed *bytes_max*; give what it had printed."""
    command = [sys.executable, "-m", cut_victim.__name__, str(root), str(first), str(bytes_max)]
    died = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert died.returncode == -signal.SIGXFSZ
    return acks(died.stdout)


def acks(output: str) -> dict[str, int]:
    lines = output.splitlines(keepends=True)
    whole = [line.split() for line in lines if line.startswith("ack ") and line.endswith("\n")]
    return {identity: int(tokens) for _, identity, tokens in whole}


async def recover(root, sql) -> Shipper:
    """Have a gateway that lives ship all that is left under *root*."""
    spool = FileSpool(root, "survivor")
    shipper = Shipper(spool, sql.journal, interval_s=0.02, adopt_every_s=0.05)
    await shipper.start()
    await until(lambda: not shipper.backlog_events)
    await shipper.aclose()
    await spool.aclose()
    return shipper


def assert_all_there(acknowledged, sql):
    rows = {row["id"]: row for row in sql.rows()}
    assert acknowledged
    assert {identity: rows[identity]["completion_tokens"] for identity in acknowledged} == acknowledged
    for identity in rows.keys() - acknowledged.keys():
        assert rows[identity]["outcome"] in {"completed", "interrupted"}


@pytest.mark.parametrize("seed", range(2))
async def test_a_process_killed_at_random_moments_loses_and_doubles_nothing(root, sql, seed):
    moments = random.Random(seed)
    url = sql.database._engine.url.render_as_string()
    acknowledged = {}
    for round_ in range(4):
        acknowledged |= Victim(root, url, round_ * 1_000_000).acknowledged(moments.uniform(0.02, 0.5))
    shipper = await recover(root, sql)
    assert_all_there(acknowledged, sql)
    assert shipper.damaged_bytes == 0
    assert list(root.iterdir()) == [], "every spool was adopted and removed"


async def test_a_process_killed_at_random_bytes_of_a_write_loses_and_doubles_nothing(root, sql):
    """The file ends at that very byte: in a length, a checksum, a text, or between two records of one write."""
    bytes_ = random.Random(3)
    acknowledged = {}
    for round_ in range(8):
        acknowledged |= killed_at(bytes_.randrange(4_000, 40_000), root, round_ * 1_000_000)
    shipper = await recover(root, sql)
    assert_all_there(acknowledged, sql)
    assert shipper.torn_bytes > 0, "at least one of so many ended inside a record"
    assert shipper.damaged_bytes == 0, "what a crash cuts short is not taken for rot"
    assert list(root.iterdir()) == []


async def test_segments_that_are_shipped_twice_change_nothing(root, sql, tmp_path):
    """As after a restore of the disk from a backup."""
    url = sql.database._engine.url.render_as_string()
    acknowledged = Victim(root, url, 0).acknowledged(0.3)
    backup = shutil.copytree(root, tmp_path / "backup")
    await recover(root, sql)
    before = sql.rows()
    assert_all_there(acknowledged, sql)
    shutil.copytree(backup, root, dirs_exist_ok=True)
    shipper = await recover(root, sql)
    assert sql.rows() == before
    assert (shipper.recovered_events, shipper.replayed_events) == (0, shipper.shipped_events)
    assert shipper.replayed_events > 0
