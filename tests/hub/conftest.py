"""A hub, a store, and pullers as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.hub_server import running_hub
from workers.hub.client import Hub
from workers.hub.ids import parse_ref
from workers.hub.progress import Lines
from workers.hub.pull import Pull, ask, ensure, fetch
from workers.hub.store import ModelStore

MODEL = "Qwen/Qwen3-Test"


@pytest.fixture(autouse=True)
def _no_login(tmp_path, monkeypatch):
    """Whoever runs the tests may be logged in to ModelScope, or point at another hub."""
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope-home"))
    for name in ("MODELSCOPE_API_TOKEN", "MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


class Puller:
    """Pulls in this process; what it says is kept."""

    def __init__(self, hub, store):
        self.hub, self.store, self.said = hub, store, []

    def wish(self, model=MODEL, revision=None, token=""):
        progress = Lines(self.said.append)
        return Pull(parse_ref(model, revision), self.store, Hub(self.hub.url, token), progress)

    def fetch(self, *args, **options):
        return fetch(self.wish(*args, **options))

    def ensure(self, *args, **options):
        return ensure(self.wish(*args, **options))


@pytest.fixture
def puller(hub, store):
    return Puller(hub, store)


@pytest.fixture
def start_pull(hub, store):
    """Give a function that starts a process that pulls, as a worker's agent does."""
    running = []

    def start(model=MODEL):
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.hub.pull"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
            cwd=Path(__file__).parents[2],
        )
        process.stdin.write(ask(model, None, store.root, Hub(hub.url)) + "\n")
        process.stdin.close()
        process.stdin = None
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()
