"""One real engine over two hosts' devices, with LoRA adapters: only its leader registers, and both names are served."""

import json
import subprocess
import sys

import pytest

from tests.servers.process import free_port
from tests.workers.gateway_ear import TOKEN, GatewayEar
from tests.workers.test_agent import engine_of, is_ready

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(700)]  # three processes that each import torch

READY_S_MAX = 500
PROMPT = "The miller counts what comes out of the mill, and writes it down. "


@pytest.fixture
def poet(tiny_model, tmp_path):
    """A LoRA adapter of the tiny model that turns its queries upside down."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((tiny_model / "config.json").read_text())
    hidden, rank = config["hidden_size"], 4
    queries = config["num_attention_heads"] * config.get("head_dim", hidden // config["num_attention_heads"])
    torch.manual_seed(1)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, hidden, dtype=torch.bfloat16)
        weights[f"{name}.lora_B.weight"] = torch.randn(queries, rank, dtype=torch.bfloat16)
    folder = tmp_path / "poet"
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 16, "bias": "none"}
    adapter |= {"target_modules": ["q_proj"], "base_model_name_or_path": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder


@pytest.fixture
def hosts(tmp_path, tiny_model, poet):
    """Two agents, each as on a host of its own, and what a gateway hears of them."""
    ear, port = GatewayEar(), free_port()
    spread = ("--nodes", "2", "--tensor-parallel-size", "2", "--leader", "127.0.0.1", "--leader-port", str(port))
    agents = []
    for rank in range(2):
        home = tmp_path / f"host-{rank}"
        command = [sys.executable, "-c", "import typer; from workers.commands import worker; typer.run(worker)"]
        command += ["--model", str(tiny_model), "--served-name", "tiny", "--home", str(home), "--gateway", ear.url]
        command += ["--max-model-len", "1024", "--max-num-seqs", "8", "--threads", "1", "--token", TOKEN]
        command += ["--node-rank", str(rank), "--adapter", f"poet={poet}", *spread]
        home.mkdir()
        with (home / "agent.log").open("wb") as log:
            agents.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
    yield ear, agents
    for agent in agents:
        agent.terminate()
    for agent in agents:
        agent.wait(60)
    ear.close()


def complete(engine, model):
    asked = {"model": model, "prompt": PROMPT * 3, "max_tokens": 12, "temperature": 0}
    return engine.post("/v1/completions", json=asked).raise_for_status().json()["choices"][0]["text"]


def test_an_engine_over_two_hosts_serves_its_model_and_its_adapters(hosts):
    ear, agents = hosts
    beat = ear.until(lambda beat: is_ready(beat) and beat["models"] == ["tiny", "poet"], READY_S_MAX)
    assert len({beat["path"] for beat in ear.beats}) == 1, "only the leader registers"
    with engine_of(beat) as engine:
        assert complete(engine, "tiny") != complete(engine, "poet")
    for agent in reversed(agents):
        agent.terminate()
    assert [agent.wait(60) for agent in agents] == [0, 0]
