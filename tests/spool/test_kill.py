"""kill -9, at any moment: what was acknowledged is in the Journal, once."""

import random
import subprocess
import sys
import threading

import pytest

from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from tests.spool import victim
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
        lines = self._process.stdout.read().splitlines(keepends=True)
        self._process.wait()
        whole = [line.split() for line in lines if line.startswith("ack ") and line.endswith("\n")]
        return {identity: int(tokens) for _, identity, tokens in whole}


@pytest.mark.parametrize("seed", range(2))
async def test_a_process_killed_at_random_moments_loses_and_doubles_nothing(root, sql, seed):
    moments = random.Random(seed)
    url = sql.database._engine.url.render_as_string()
    acknowledged = {}
    for round_ in range(4):
        acknowledged |= Victim(root, url, round_ * 1_000_000).acknowledged(moments.uniform(0.02, 0.5))

    spool = FileSpool(root, "survivor")
    shipper = Shipper(spool, sql.journal, interval_s=0.02, adopt_every_s=0.05)
    await shipper.start()
    await until(lambda: not shipper.backlog_events)
    await shipper.aclose()
    await spool.aclose()

    rows = {row["id"]: row for row in sql.rows()}
    assert acknowledged
    assert {identity: rows[identity]["completion_tokens"] for identity in acknowledged} == acknowledged
    for identity in rows.keys() - acknowledged.keys():
        assert rows[identity]["outcome"] in {"completed", "interrupted"}
    assert shipper.damaged_bytes == 0
    assert list(root.iterdir()) == [], "every spool was adopted and removed"
