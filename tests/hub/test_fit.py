"""Which models fit on which GPUs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import WorkerError
from workers.hub.architecture import Precision
from workers.hub.catalogue import load_catalogue
from workers.hub.fit import fit
from workers.hub.gpus import KNOWN, Gpus, parse_gpus

ENTRIES = load_catalogue().entries


def found(model, gpus, **options):
    return fit(load_catalogue().entry(model), parse_gpus(gpus), **options)


@pytest.mark.parametrize(
    ("model", "gpus", "context", "tensor", "stages"),
    [
        ("Qwen/Qwen3-8B", "A10:1", 8192, 1, 1),
        ("Qwen/Qwen3-32B", "H100:8", 8192, 1, 1),
        ("Qwen/Qwen3-235B-A22B-FP8", "H100:8", 8192, 4, 1),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "H200:8", 262_144, 8, 1),
        ("Qwen/Qwen3.5-397B-A17B", "H200:8", 262_144, 8, 1),  # vLLM's recipe for it, "verified on 8x H200"
        ("Qwen/Qwen3-235B-A22B", "Ascend 910B:8", 8192, 8, 1),  # vLLM-Ascend's tutorial: one node of 64 GB × 8
        ("Qwen/Qwen3-235B-A22B", "A100-40:16", 8192, 8, 2),
    ],
)
def test_models_are_spread_as_their_makers_do_it(model, gpus, context, tensor, stages):
    fitted = found(model, gpus, context=context)
    assert (fitted.tensor, fitted.stages) == (tensor, stages), fitted


@pytest.mark.parametrize(
    ("model", "gpus", "options", "reason"),
    [
        ("Qwen/Qwen3-235B-A22B", "H100:4", {}, "its weights of 470 GB leave no room on H100:4"),
        ("Qwen/Qwen3-8B-FP8", "Ascend 910B:8", {}, "Ascend 910B does not run fp8 checkpoints"),
        ("Qwen/Qwen3-8B", "H200:1", {"context": 200_000}, "its context is 131072 tokens at most"),
        ("Qwen/Qwen3-0.6B", "H200:1", {"precision": Precision.INT4}, "there is no int4 checkpoint of it"),
        ("Qwen/Qwen3-32B", "H200:1", {"concurrency": 64}, "sequences of 40960 tokens fit at most, not 64"),
        ("Qwen/Qwen3-8B", "A10:1", {"context": 40_960}, "tokens of context fit at most"),
    ],
)
def test_what_does_not_fit_says_why(model, gpus, options, reason):
    fitted = found(model, gpus, **options)
    assert not fitted.is_fitting
    assert reason in fitted.reason


def test_who_wants_more_sequences_at_once_gets_more_gpus():
    assert found("Qwen/Qwen2.5-72B-Instruct", "A100-80:8", context=8192).tensor == 2
    assert found("Qwen/Qwen2.5-72B-Instruct", "A100-80:8", context=8192, concurrency=16).tensor == 4


def test_more_context_than_the_model_has_by_itself_is_stretched():
    args = found("Qwen/Qwen3-8B", "H200:1", context=100_000).engine_args
    assert any('"factor": 4.0' in arg and '"yarn"' in arg for arg in args)
    assert not any("yarn" in arg for arg in found("Qwen/Qwen3-8B", "H200:1", context=40_960).engine_args)


def test_experts_that_fp8_blocks_would_be_cut_through_stay_whole():
    """Eight parts of an expert of 1,536 are 192 wide, no multiple of the blocks' 128."""
    fitted = found("Qwen/Qwen3-235B-A22B-FP8", "A100-40:8", context=8192)
    assert fitted.tensor == 8
    assert "--enable-expert-parallel" in fitted.engine_args


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("h200:8", "H200", 8),
        ("NVIDIA H100", "H100", 1),
        ("rtx 4090:2", "RTX 4090", 2),
        ("4090", "RTX 4090", 1),
        ("A100:4", "A100-80", 4),
        ("Huawei Ascend 910B:16", "Ascend 910B", 16),
    ],
)
def test_gpus_are_known_by_the_names_people_use(text, name, count):
    assert (parse_gpus(text).gpu.name, parse_gpus(text).count) == (name, count)


def test_any_other_gpu_is_given_by_its_memory():
    assert parse_gpus("141GB:8").gpu.memory_bytes == 141 * 10**9
    assert parse_gpus("24GiB").gpu.memory_bytes == 24 << 30


@pytest.mark.parametrize("text", ["MI300X:8", "H200:0", "H200:many", "H200:9999", ""])
def test_an_unknown_gpu_is_told_with_the_list_of_known_ones(text):
    with pytest.raises(WorkerError, match=r"Known are B200.*141GB:8|is not a number of GPUs from 1 to 1024"):
        parse_gpus(text)


@given(st.sampled_from(ENTRIES), st.sampled_from(list(KNOWN.values())), st.integers(1, 32), st.integers(256, 131_072))
def test_a_fit_stays_within_the_gpus_memory(entry, gpu, count, context):
    fitted = fit(entry, Gpus(gpu, count), context=context)
    if not fitted.is_fitting:
        assert fitted.reason
        return
    assert fitted.tensor * fitted.stages * fitted.copies <= count
    used = fitted.weight_bytes_per_gpu
    if entry.architecture:
        per_token = entry.architecture.kv_bytes_per_token_on(tensor=fitted.tensor, stages=fitted.stages)
        used += fitted.kv_tokens * per_token
        assert fitted.sequences * context <= fitted.kv_tokens
    assert used <= 0.92 * gpu.memory_bytes


@given(st.sampled_from(ENTRIES), st.sampled_from(list(KNOWN.values())), st.integers(1, 16))
def test_more_gpus_never_make_a_model_unfit(entry, gpu, count):
    if fit(entry, Gpus(gpu, count), context=4096).is_fitting:
        assert fit(entry, Gpus(gpu, count + 1), context=4096).is_fitting
