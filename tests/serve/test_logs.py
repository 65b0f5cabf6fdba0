"""Logging never fails what is logged about."""

import subprocess
import sys
from pathlib import Path

LOG_AND_LIVE = """
import os, sys, structlog
from gateway.telemetry.logs import configure_logs
configure_logs("json", "info")
structlog.get_logger().info("lost")
sys.stderr.write("alive")
sys.stderr.flush()
os._exit(0)
"""


def test_a_full_disk_under_the_log_fails_nothing():
    """/dev/full answers every write with ENOSPC."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LOG_AND_LIVE], stdout=full, stderr=subprocess.PIPE, timeout=30, check=True
        )
    assert done.stderr == b"alive"
