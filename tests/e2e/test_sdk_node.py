"""What an application written with OpenAI's Node SDK meets, on real vLLM workers."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.node, pytest.mark.timeout(600)]  # two engines start within it

FOLDER = Path(__file__).parents[1] / "node"


@pytest.fixture(scope="module")
def seen(real):
    """What the SDK saw, case by case."""
    if shutil.which("node") is None or not (FOLDER / "node_modules" / "openai").exists():
        pytest.skip("Node.js or its openai package is not installed (`make test` installs it)")
    command = ["node", "sdk.mjs", f"{real.gateways[0].url}/v1", real.key]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plain_completion_is_answered(seen):
    assert seen["plain"]["content"]
    assert seen["plain"]["usage"]["completion_tokens"] == 12
    assert seen["plain"]["request_id"].startswith("req_")


def test_a_stream_says_the_same_as_a_plain_answer(seen):
    assert seen["stream"]["content"] == seen["plain"]["content"]
    assert seen["stream"]["usages"] == []


def test_usage_comes_once_if_it_was_asked_for(seen):
    assert [usage["completion_tokens"] for usage in seen["stream_usage"]["usages"]] == [12]


def test_an_abort_in_mid_stream_ends_the_stream(seen):
    assert 1 <= seen["abort"]["chunks"] < 1900


def test_errors_are_the_sdks_own(seen):
    assert seen["unknown_model"] == {
        "name": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
    }
    assert seen["bad_key"]["name"] == "AuthenticationError"
    assert seen["wrong_type"] == {
        "name": "BadRequestError",
        "status": 400,
        "code": "invalid_request",
        "param": "messages",
    }
    assert seen["too_long"]["name"] == "BadRequestError"


def test_models_are_listed(seen):
    assert "tiny" in seen["models"]
