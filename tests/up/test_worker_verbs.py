"""`sluice worker list|cordon|uncordon|drain` on a running installation."""

import json

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.errors import InvalidInput
from tests.servers.installation import ADMIN_TOKEN, Installation

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]


@pytest.fixture
def installation(tmp_path, redis_url):
    installation = Installation(tmp_path / "home", redis_url=redis_url)
    yield installation
    installation.close()


@pytest.fixture
def verb(installation):
    """A function that runs `sluice worker …` as an operator does, in this process: it is an HTTP client."""
    runner = CliRunner()

    def verb(*arguments: str):
        own = {"SLUICE_HOME": str(installation.home), "SLUICE_PORT": str(installation.gateways[0].port)}
        return runner.invoke(app, ["worker", *arguments], env=own | {"SLUICE_ADMIN_TOKEN": ADMIN_TOKEN})

    return verb


def test_workers_are_cordoned_and_drained_one_by_one_and_as_a_pool(installation, verb):
    def printed(*arguments):
        done = verb(*arguments, "--format", "json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    gateways = [installation.add_gateway(), installation.add_gateway(own_home=True)]
    installation.declare()
    workers = [installation.add_worker("sim") for _ in range(2)]
    for worker in workers:
        worker.wait_ready(60)

    assert [(one["worker"], one["state"]) for one in printed("list")] == [
        ("worker-1", "ready"),
        ("worker-2", "ready"),
    ]
    assert "worker-1" in verb("list").stdout
    assert [one["state"] for one in printed("cordon", "--pool", "tiny")] == ["cordoned"] * 2
    for gateway in gateways:
        gateway.wait_until("told of the cordon", lambda g=gateway: g.ready_workers() == [], 10)
    gateways[1].kill()
    gateways[1].start()  # it learns of the cordon from the others
    gateways[1].wait_until("told anew", lambda: [one["state"] for one in gateways[1].workers()] == ["cordoned"] * 2, 10)
    printed("uncordon", "worker-2")
    for gateway in gateways:
        gateway.wait_until("told of its end", lambda g=gateway: g.ready_workers() == ["worker-2"], 10)

    done = verb("drain", "worker-1", "--wait", "--format", "json")
    assert done.exit_code == 0, done.stderr
    [ended] = json.loads(done.stdout)
    assert (ended["worker"], ended["state"]) == ("worker-1", "ended")
    assert "worker-1 drains, 0 in flight" in done.stderr
    assert workers[0]._process.wait(30) == 0, "the agent has ended its engine and itself"
    assert workers[1].is_running

    assert "There is no worker 'worker-22' now. Is it 'worker-2'?" in str(verb("drain", "worker-22").exception)
    assert isinstance(verb("drain").exception, InvalidInput)
    assert "No worker of the pool 'another'" in str(verb("cordon", "--pool", "another").exception)
