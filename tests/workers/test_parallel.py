"""An engine's spread over devices and hosts becomes vLLM's options; what cannot be spread is refused."""

import pytest

from workers.engines.launch import EngineOptions
from workers.engines.parallel import Parallel
from workers.engines.vllm import launch
from workers.errors import WorkerError


def argv(**options):
    given = {"served_names": ("m",), "host": "h", "port": 1, "api_key": "secret", "max_num_seqs": 8}
    return launch(EngineOptions(model="m", max_batched_tokens=64, is_on_cpu=False, **given, **options)).argv


def test_one_device_needs_no_options():
    assert Parallel().arguments() == []


def test_devices_of_one_host_share_layers_and_groups_of_them_the_stack():
    arguments = Parallel(tensor=4, pipeline=2).arguments()
    assert arguments == ["--tensor-parallel-size", "4", "--pipeline-parallel-size", "2"]


def test_hosts_of_one_engine_name_their_leader():
    text = " ".join(argv(parallel=Parallel(tensor=16, nodes=2, node_rank=1, leader="first", port=7)))
    assert "--nnodes 2 --node-rank 1 --master-addr first --master-port 7" in text
    assert "vllm_follower" in text
    assert "--host" not in text, "only the leader serves"


@pytest.mark.parametrize(
    ("spread", "says"),
    [
        ({"nodes": 2, "tensor": 2}, "--leader"),
        ({"nodes": 2, "tensor": 3, "leader": "h"}, "cannot be shared evenly"),
        ({"nodes": 2, "tensor": 2, "leader": "h", "node_rank": 2}, "--node-rank 2"),
    ],
)
def test_what_cannot_be_spread_is_refused(spread, says):
    with pytest.raises(WorkerError, match=says):
        Parallel(**spread)


def test_adapters_certificates_and_environment_reach_the_engine(tmp_path):
    given = {"served_names": ("m",), "host": "h", "port": 1, "api_key": "secret", "max_num_seqs": 8}
    started = launch(
        EngineOptions(
            model="m",
            max_batched_tokens=64,
            is_on_cpu=False,
            adapters_max=3,
            cert=tmp_path / "cert.pem",
            key=tmp_path / "key.pem",
            env=(("ASCEND_RT_VISIBLE_DEVICES", "0,1"),),
            **given,
        )
    )
    text = " ".join(started.argv)
    assert "--enable-lora --max-loras 3" in text
    assert f"--ssl-certfile {tmp_path}/cert.pem --ssl-keyfile {tmp_path}/key.pem" in text
    assert started.env["ASCEND_RT_VISIBLE_DEVICES"] == "0,1"
    assert started.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
