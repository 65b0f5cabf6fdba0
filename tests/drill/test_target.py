"""Which gateways may be drilled, and what is left of a drill there."""

import httpx
import pytest

from tests.servers.installation import ADMIN_TOKEN, WORKER_TOKEN, Installation

pytestmark = pytest.mark.timeout(120)

FEW = ("--users", "20", "--over", "1", "--calm", "0", "--tenants", "2", "--output-tokens", "4", "--hangups", "0")
BEAT = {"pool": "tiny", "models": ["tiny"], "url": "http://127.0.0.1:9", "state": "ready", "max_seqs": 4}


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    """A gateway with a simulated worker, as `sluice worker --engine sim` runs it."""
    # A worker that beats once in a test must still be listed when a loaded machine gets to ask.
    installation = Installation(tmp_path_factory.mktemp("target"), SLUICE_ROSTER__LEASE_S="60")
    installation.add_gateway()
    installation.sluice("models", "serve", "tiny")
    installation.add_worker("sim").wait_ready(30)
    yield installation
    installation.close()


@pytest.fixture
def beat(installation):
    """A function that has another worker beat, struck off again at the end."""
    url = f"{installation.gateways[0].url}/internal/v1/workers/other"
    headers = {"authorization": f"Bearer {WORKER_TOKEN}"}

    def send(**changes):
        httpx.post(f"{url}/beat", json=BEAT | changes, headers=headers).raise_for_status()

    yield send
    httpx.delete(url, headers=headers).raise_for_status()


def run(drill, installation, *options, token=ADMIN_TOKEN):
    environ = {"SLUICE_ADMIN_TOKEN": token}
    return drill("--url", installation.gateways[0].url, *FEW, *options, environ=environ)


def test_a_gateway_with_simulated_workers_is_drilled_and_left_as_it_was(drill, installation):
    status, result, errors = run(drill, installation)
    assert status == 0, (errors, result)
    assert (result["served"], result["lost"]) == (20, 0)
    assert result["redis_ops_per_request"] is None, "nobody watched a Redis that may not be ours"
    tenants = [tenant for tenant in installation.sluice_json("tenants", "list") if tenant["id"].startswith("drill-")]
    assert [tenant["is_suspended"] for tenant in tenants] == [True, True]
    assert all(key["is_revoked"] for tenant in tenants for key in keys_of(installation, tenant["id"]))


def keys_of(installation, tenant):
    return installation.sluice_json("keys", "list", "--tenant", tenant)


def test_a_given_key_is_used_for_all(drill, installation):
    installation.sluice("tenants", "create", "Own", "--service-class", "interactive")
    key = installation.sluice_json("keys", "create", "--tenant", "own")["key"]
    status, result, errors = run(drill, installation, "--key", key)
    assert status == 0, (errors, result)
    assert list(result["tenants"]) == ["tenant-1"]


@pytest.mark.parametrize("said", [{}, {"engine": "vllm"}])
def test_one_worker_that_is_not_simulated_forbids_the_drill(drill, installation, beat, said):
    """Even in another pool, and even if it does not say what it runs."""
    beat(pool="another", models=["another"], **said)
    status, result, errors = run(drill, installation)
    assert (status, result) == (1, None)
    assert "is no drill target: other runs vllm, not a simulated engine" in errors


def test_whoever_cannot_ask_which_engines_run_may_not_drill(drill, installation):
    status, result, errors = run(drill, installation, token="wrong")
    assert (status, result) == (1, None)
    assert "does not say which engines its workers run" in errors


def test_a_gateway_that_is_away_is_one_sentence(drill):
    status, result, errors = drill("--url", "http://127.0.0.1:9", *FEW)
    assert (status, result) == (1, None)
    assert "The gateway at http://127.0.0.1:9 cannot be reached" in errors
    assert len(errors.strip().splitlines()) == 1
