"""The catalogue that is shipped, and what a wrong one is told."""

import pytest

from workers.errors import WorkerError
from workers.hub.architecture import Precision
from workers.hub.catalogue import load_catalogue

GOOD = """
architectures:
  small: {layers: 2, hidden: 64, heads: 4, kv_heads: 2, head_dim: 16, vocabulary: 100, mlp_hidden: 128}
models:
  - id: Qwen/Small
    family: Small
    architecture: small
    takes: [text]
    gives: [text]
    licence: Apache-2.0
    source: made up
    context_tokens: 100
    variants: {int4: [Qwen/Small-AWQ, Qwen/Small-GPTQ-Int4]}
"""


def test_every_family_and_modality_is_there():
    entries = load_catalogue().entries
    families = {entry.family for entry in entries}
    assert families >= {
        *("Qwen3", "Qwen3-2507", "Qwen3-Coder", "Qwen3-Next", "Qwen3.5", "Qwen3-VL", "Qwen3-Omni", "Qwen3-ASR"),
        *("Qwen3-Embedding", "Qwen3-Reranker", "Qwen2.5", "Qwen2.5-1M", "Qwen2.5-VL", "Qwen2.5-Omni", "QwQ"),
        *("Qwen2-Audio", "Qwen-Image"),
    }
    assert {"image", "video", "audio"} <= {modality for entry in entries for modality in entry.takes}
    assert {"text", "image", "embedding", "score"} <= {modality for entry in entries for modality in entry.gives}
    assert {entry.precision for entry in entries} == set(Precision)


def test_a_variant_is_found_by_its_own_id_whatever_its_case():
    entry = load_catalogue().entry("qwen/qwen3-8b-fp8")
    assert entry.precision is Precision.FP8
    assert entry.checkpoints[Precision.INT4] == "Qwen/Qwen3-8B-AWQ"
    assert load_catalogue().entry("Qwen/Qwen0") is None


def test_a_small_catalogue_gives_its_variants(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD)
    assert [entry.id for entry in load_catalogue(tmp_path / "c.yaml").entries] == [
        "Qwen/Small",
        "Qwen/Small-AWQ",
        "Qwen/Small-GPTQ-Int4",
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("layers: 2", "layers: two", r"c\.yaml, line 3: layers must be a whole number, not 'two'"),
        ("layers: 2, ", "", r"c\.yaml, line 3: .*layers"),
        ("layers: 2", "layer: 2", r"c\.yaml, line 3: 'layer' is not known here; known are"),
        ("architecture: small", "architecture: large", r"c\.yaml, line 5: the architecture 'large' is not defined"),
        ("takes: [text]", "takes: [smell]", r"c\.yaml, line 5: takes must list some of audio"),
        ("id: Qwen/Small\n", "id: Small\n", r"c\.yaml, line 5: 'Small' is not a ModelScope id"),
        ("int4:", "int3:", r"c\.yaml, line 5: 'int3' is not a precision"),
        ("Qwen/Small-AWQ", "Qwen/small", r"c\.yaml, line 5: Qwen/small is there twice"),
        ("source: made up", "licence: MIT", r"c\.yaml, line 11: 'licence' is there twice"),
        ("    context_tokens: 100\n", "", r"c\.yaml, line 5: context_tokens is missing"),
        ("models:", "models: [", r"c\.yaml, line \d+: not valid YAML"),
        ("licence: Apache-2.0", "licence: 2", r"c\.yaml, line 5: licence must be a text"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, old, new, says):
    (tmp_path / "c.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(WorkerError, match=says):
        load_catalogue(tmp_path / "c.yaml")
