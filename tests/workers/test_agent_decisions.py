"""What an agent decides without any engine: pauses, causes, what it tells, how it starts what."""

import json
import signal
from pathlib import Path

import pytest

from workers.agent.backoff import Backoff
from workers.agent.causes import describe, describe_exit, last_error
from workers.agent.engine import Progress
from workers.agent.status import Status
from workers.agent.worker_state import WorkerState
from workers.engines import vllm
from workers.engines.launch import EngineOptions
from workers.engines.vllm import EngineMetrics, cpu_kv_cache_gib, scrape
from workers.errors import WorkerError
from workers.hub.modelscope import resolve

TRACEBACK = """(EngineCore pid=12) ERROR 11-22 02:59:58 [core.py:1512] Traceback (most recent call last):
(EngineCore pid=12) ERROR 11-22 02:59:58 [core.py:1512]   File "core.py", line 1, in run
(EngineCore pid=12) ERROR 11-22 02:59:58 [core.py:1512] ValueError: the model's head size 33 is not supported
(APIServer pid=11) RuntimeError: Engine core initialization failed. See root cause above.
"""
QWEN3_0_6B = {"num_hidden_layers": 28, "num_key_value_heads": 8, "head_dim": 128}


def test_pauses_double_up_to_the_longest():
    backoff = Backoff()
    assert [backoff.after(0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_pauses_start_over_after_long_health_and_not_after_short():
    backoff = Backoff()
    assert [backoff.after(s) for s in (0, 0, 10, 299, 300, 0)] == [1, 2, 4, 8, 1, 2]


@pytest.mark.parametrize(
    ("status", "log", "said"),
    [
        (-signal.SIGILL, "", "SIGILL: an illegal instruction"),
        (-signal.SIGKILL, "", "SIGKILL: often the kernel's answer to too little memory"),
        (1, "Worker proc VllmWorker-0 died unexpectedly (exit code: -4)", "exit status 1: an illegal instruction"),
        (1, "torch.OutOfMemoryError: CUDA out of memory", "ran out of memory"),
        (1, "OSError: [Errno 98] Address already in use", "its port is taken"),
        (1, TRACEBACK, "log ends with: ValueError: the model's head size 33 is not supported"),
        (3, "INFO all is well", "exit status 3; its log says nothing of why"),
    ],
)
def test_a_cause_is_a_sentence_that_says_what_to_do_or_what_was_last_said(status, log, said):
    cause = describe_exit(status, log)
    assert said in cause
    assert cause.startswith("The engine ")


def test_a_failed_first_completion_is_explained_by_the_log():
    assert "illegal instruction" in describe("The engine did not complete", "died unexpectedly (exit code: -4)")


def test_no_line_with_a_prompt_is_quoted():
    log = (
        "ERROR serving.py: error=ErrorInfo(message='my secret prompt')\n"
        "INFO prompt: 'Error: my secret prompt'\nValueError: cut " + "x" * 500
    )
    assert "secret" not in last_error(log)
    assert len(last_error(log)) == 200


def test_work_without_a_token_is_noticed_after_a_while_and_idleness_never():
    progress = Progress(stall_s=60)
    busy, done = EngineMetrics(running=1, generation_tokens_total=5), EngineMetrics(generation_tokens_total=5)
    assert [progress.silent_for(busy, s) for s in (0, 59, 61)] == [0, 0, 61]
    assert progress.silent_for(EngineMetrics(running=1, generation_tokens_total=6), 62) == 0
    assert [progress.silent_for(done, s) for s in (100, 500)] == [0, 0]


PAGE = """
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b"} 2.0
vllm:num_requests_running{engine="1",model_name="a b"} 3.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:generation_tokens_total{engine="0"} 1.5e+03
vllm:generation_tokens_created{engine="0"} 1.7e+09
process_start_time_seconds 1.7953139645e+09
"""


def test_figures_of_several_engines_are_summed_and_the_fullest_cache_counts():
    metrics = scrape(PAGE)
    assert (metrics.running, metrics.kv_cache_usage, metrics.generation_tokens_total) == (5, 0.5, 1500)
    assert metrics.started_s == 1795313964.5


def test_a_draining_worker_stays_one():
    status = Status(pool="p", models=("m",), max_seqs=1, max_batched_tokens=1)
    status.change(WorkerState.DRAINING)
    status.change(WorkerState.READY)
    assert status.beat()["state"] == "draining"


def test_a_key_is_in_no_repr():
    status = Status(pool="p", models=("m",), max_seqs=1, max_batched_tokens=1, engine_key="secret")
    assert "secret" not in repr(status)
    assert status.beat()["engine_key"] == "secret"


def engine_options(folder: Path, **fields):
    (folder / "config.json").write_text(json.dumps({**QWEN3_0_6B, "max_position_embeddings": 40960}))
    usual = {"model": str(folder), "served_names": ("a", "b"), "host": "127.0.0.1", "port": 1, "api_key": "secret"}
    return EngineOptions(**usual, max_num_seqs=8, max_batched_tokens=2048, **fields)


def test_vllm_gets_its_key_and_no_secret_of_ours_and_sends_no_statistics(tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICE_WORKER_TOKEN", "token")
    launch = vllm.launch(engine_options(tmp_path))
    assert launch.env["VLLM_API_KEY"] == "secret"
    assert not [name for name in launch.env if name.startswith("SLUICE_")]
    assert {launch.env[name] for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE")} == {"1"}
    assert "secret" not in " ".join(launch.argv) + repr(launch)


def test_what_the_operator_says_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    launch = vllm.launch(engine_options(tmp_path, extra_args=("--dtype", "float32")))
    assert launch.argv[-2:] == ("--dtype", "float32")
    assert launch.env["VLLM_CPU_KVCACHE_SPACE"] == "7"


def test_a_gpu_engine_is_left_its_own_choices(tmp_path):
    launch = vllm.launch(engine_options(tmp_path, is_on_cpu=False))
    assert not {"--dtype", "--enforce-eager", "--max-model-len"} & set(launch.argv)


def test_the_cpu_cache_holds_four_full_contexts():
    assert cpu_kv_cache_gib(QWEN3_0_6B, 8192) == 4
    assert cpu_kv_cache_gib({"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 32}, 4096) == 1


def test_a_folder_without_a_model_is_named_with_what_to_do(tmp_path):
    with pytest.raises(WorkerError, match=r"holds no config\.json"):
        resolve(str(tmp_path), tmp_path)


def test_what_is_neither_a_folder_nor_an_id_is_refused_without_the_network(tmp_path):
    with pytest.raises(WorkerError, match="not a ModelScope id"):
        resolve("./nowhere", tmp_path)


def test_a_local_folder_is_used_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path), tmp_path / "cache") == tmp_path
