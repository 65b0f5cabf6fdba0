"""A model that came in an archive, to a worker whose hub nobody can reach, is served like any other."""

import httpx
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]  # two engines start within it
TRIES = 40  # of prompts that begin differently: either worker may get each


def test_the_worker_without_a_network_serves_what_was_imported(real, carried_model):
    folder, carried = real.workers
    assert str(carried_model.folder) in carried.engine_log.read_text()
    assert str(carried_model.folder) not in folder.engine_log.read_text()
    served = {ask(real, f"{number} hello") for number in range(TRIES)}
    assert {worker for worker, text in served if text} == {folder.name, carried.name}


def ask(real, prompt):
    answer = httpx.post(
        f"{real.gateways[0].url}/v1/chat/completions",
        json={"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": 4},
        headers={"authorization": f"Bearer {real.key}"},
        timeout=60,
    )
    return answer.headers["x-sluice-worker"], answer.json()["choices"][0]["message"]["content"]
