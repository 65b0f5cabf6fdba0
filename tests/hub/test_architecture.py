"""The formulas against what is published: safetensors' parameter counts, `total_size` of their indexes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.hub.architecture import Architecture, Experts, LinearAttention, Precision
from workers.hub.catalogue import load_catalogue

# Parameters of the files on the hubs, as their pages and metadata give them ("safetensors": {"total": …}).
PUBLISHED = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": 480_154_875_392,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 81_324_862_720,
    "Qwen/Qwen3.5-27B": 27_781_427_952,
    "Qwen/Qwen3.5-35B-A3B": 35_951_822_704,
    "Qwen/Qwen3.5-122B-A10B": 125_086_497_008,
    "Qwen/Qwen3.5-397B-A17B": 403_397_928_944,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": 35_259_818_545,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33_452_718_336,
    "Qwen/Qwen2.5-Omni-7B": 10_732_225_408,
}
# "metadata": {"total_size": …} of model.safetensors.index.json.
PUBLISHED_BYTES = {"Qwen/Qwen3-8B": 16_381_470_720, "Qwen/Qwen3-235B-A22B": 470_187_269_120}


@pytest.mark.parametrize(("model", "parameters"), PUBLISHED.items())
def test_the_layers_add_up_to_the_published_parameters_to_the_last_one(model, parameters):
    entry = load_catalogue().entry(model)
    assert entry.parameters + entry.parameters_unloaded == parameters


@pytest.mark.parametrize(("model", "size"), PUBLISHED_BYTES.items())
def test_the_weights_have_the_published_size(model, size):
    assert load_catalogue().entry(model).weight_bytes == size


@pytest.mark.parametrize(
    ("model", "depth", "hidden", "mlp"),
    [
        *((f"Qwen/Qwen3-VL-{size}-Instruct", 24, 1024, 4096) for size in ("2B", "4B")),
        *((f"Qwen/Qwen3-VL-{size}-Instruct", 27, 1152, 4304) for size in ("8B", "32B", "30B-A3B", "235B-A22B")),
        ("Qwen/Qwen3.5-0.8B", 12, 768, 3072),
        *((f"Qwen/Qwen3.5-{size}", 24, 1024, 4096) for size in ("2B", "4B")),
        *((f"Qwen/Qwen3.5-{size}", 27, 1152, 4304) for size in ("9B", "27B", "35B-A3B", "122B-A10B", "397B-A17B")),
    ],
)
def test_the_eyes_have_the_parameters_of_their_layers(model, depth, hidden, mlp):
    """Patches of 16 × 16 × 2, 2,304 positions, `depth` blocks, a merger of 2 × 2; Qwen3-VL has three more of those."""
    out = load_catalogue().entry(model).architecture.hidden
    embedding = 3 * 2 * 16 * 16 * hidden + hidden + 2304 * hidden
    attention = 3 * hidden * hidden + 3 * hidden + hidden * hidden + hidden
    block = attention + 2 * hidden * mlp + mlp + hidden + 4 * hidden
    wide = 4 * hidden
    merger = wide * wide + wide + wide * out + out
    deep = 3 * (2 * wide + merger) if "VL" in model else 0
    expected = embedding + depth * block + 2 * hidden + merger + deep
    assert load_catalogue().entry(model).architecture.encoder_parameters == expected


def test_a_token_of_context_takes_what_its_heads_take():
    assert load_catalogue().entry("Qwen/Qwen3-8B").kv_bytes_per_token == 2 * 36 * 8 * 128 * 2
    assert (
        load_catalogue().entry("Qwen/Qwen3.5-397B-A17B").kv_bytes_per_token == 2 * 15 * 2 * 256 * 2
    )  # a layer in four


def test_a_quantised_variant_is_as_much_smaller_as_its_matrices_are():
    sizes = load_catalogue().entry("Qwen/Qwen3-8B").bytes_by_precision
    assert 9.4e9 < sizes[Precision.FP8] < 9.5e9  # the model page says 9.4 GB
    assert 6.0e9 < sizes[Precision.INT4] < 6.2e9  # and 6.1 GB


architectures = st.builds(
    Architecture,
    layers=st.integers(1, 16).map(lambda n: 4 * n),
    hidden=st.sampled_from([256, 1024, 4096]),
    heads=st.sampled_from([8, 16, 32, 64]),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    head_dim=st.sampled_from([64, 128, 256]),
    vocabulary=st.integers(1000, 250_000),
    mlp_hidden=st.sampled_from([1024, 12_288]),
    experts=st.none() | st.builds(Experts, count=st.just(64), active=st.integers(1, 8), hidden=st.just(512)),
    linear=st.none()
    | st.builds(LinearAttention, full_every=st.just(4), key_heads=st.just(16), value_heads=st.just(32)),
    is_tied=st.booleans(),
    encoder_parameters=st.integers(0, 10**9),
)


@given(architectures, st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.sampled_from(list(Precision)))
def test_gpus_together_hold_everything_and_none_more_than_all(architecture, tensor, stages, precision):
    """Nothing is forgotten by spreading a model, whatever its shape; more GPUs never need more memory each."""
    whole = architecture.weight_bytes(precision)
    each = architecture.weight_bytes_on(precision, tensor=tensor, stages=stages)
    assert each <= whole * 1.000001
    assert each * tensor * stages >= whole * 0.999999
    assert architecture.weight_bytes_on(precision, tensor=1, stages=1) == pytest.approx(whole, abs=2)
    kv_each = architecture.kv_bytes_per_token_on(tensor=tensor, stages=stages)
    assert kv_each * tensor * stages >= architecture.kv_bytes_per_token
    assert kv_each <= architecture.kv_bytes_per_token
    assert architecture.active_parameters <= architecture.parameters
