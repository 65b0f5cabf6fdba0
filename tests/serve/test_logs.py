"""Logging never fails what is logged about."""

import subprocess
import sys


def test_a_full_disk_under_the_log_fails_nothing():
    """/dev/full answers every write with ENOSPC."""
    code = (
        "import structlog; from gateway.telemetry.logs import configure_logs; configure_logs('json', 'info');"
        "structlog.get_logger().info('lost'); import sys; sys.stderr.write('alive'); import os; sys.stderr.flush(); os._exit(0)"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, timeout=30, check=True)
    assert done.stderr == b"alive"
