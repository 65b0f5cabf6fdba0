"""`sluice worker list|cordon|uncordon|drain` on a running installation."""

import json
import subprocess

import pytest

from tests.servers.installation import ADMIN_TOKEN, Installation
from tests.servers.process import SLUICE, Process

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]


@pytest.fixture
def installation(tmp_path, redis_url):
    installation = Installation(tmp_path / "home", redis_url=redis_url)
    yield installation
    installation.close()


def verb(installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `sluice worker …` as an operator does."""
    own = {"SLUICE_HOME": str(installation.home), "SLUICE_PORT": str(installation.gateways[0].port)}
    environ = Process("", [], installation.home).environ | own | {"SLUICE_ADMIN_TOKEN": ADMIN_TOKEN}
    command = [SLUICE, "worker", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


def printed(installation, *arguments: str) -> list[dict]:
    done = verb(installation, *arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_workers_are_cordoned_and_drained_one_by_one_and_as_a_pool(installation):
    gateways = [installation.add_gateway(), installation.add_gateway(own_home=True)]
    installation.declare()
    workers = [installation.add_worker("sim") for _ in range(2)]
    for worker in workers:
        worker.wait_ready(60)

    assert [(one["worker"], one["state"]) for one in printed(installation, "list")] == [
        ("worker-1", "ready"),
        ("worker-2", "ready"),
    ]
    assert "worker-1" in verb(installation, "list").stdout
    assert [one["state"] for one in printed(installation, "cordon", "--pool", "tiny")] == ["cordoned"] * 2
    for gateway in gateways:
        gateway.wait_until("told of the cordon", lambda g=gateway: g.ready_workers() == [], 10)
    gateways[1].kill()
    gateways[1].start()  # it learns of the cordon from the others
    gateways[1].wait_until("told anew", lambda: [one["state"] for one in gateways[1].workers()] == ["cordoned"] * 2, 10)
    printed(installation, "uncordon", "worker-2")
    for gateway in gateways:
        gateway.wait_until("told of its end", lambda g=gateway: g.ready_workers() == ["worker-2"], 10)

    done = verb(installation, "drain", "worker-1", "--wait", "--format", "json")
    assert done.returncode == 0, done.stderr
    [ended] = json.loads(done.stdout)
    assert (ended["worker"], ended["state"]) == ("worker-1", "ended")
    assert "worker-1 drains, 0 in flight" in done.stderr
    assert workers[0]._process.wait(30) == 0, "the agent has ended its engine and itself"
    assert workers[1].is_running

    wrong = verb(installation, "drain", "worker-22")
    assert wrong.returncode == 1
    assert "There is no worker 'worker-22' now. Is it 'worker-2'?" in " ".join(wrong.stderr.split())
    assert verb(installation, "drain").returncode == 1
    assert "No worker of the pool 'another'" in " ".join(
        verb(installation, "cordon", "--pool", "another").stderr.split()
    )
