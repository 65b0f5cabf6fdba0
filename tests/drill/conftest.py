"""The command as operators run it, in a process of its own."""

import json
import subprocess

import pytest

from tests.servers.process import SLUICE, Process


@pytest.fixture(scope="session")
def drill(tmp_path_factory):
    """A function that runs `sluice drill burst` with options, from an empty folder; gives status, result, errors."""
    folder = tmp_path_factory.mktemp("drill")

    def run(*options: str, environ: dict[str, str] | None = None, within_s: float = 60):
        argv = [SLUICE, "drill", "burst", "--format", "json", *options]
        clean = Process("", argv, folder).environ | (environ or {})
        done = subprocess.run(  # noqa: PLW1510  tests look at the status themselves
            argv, env=clean, cwd=folder, capture_output=True, text=True, timeout=within_s
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr

    return run
