"""
What follows from a model's architecture: parameters, bytes of weights, bytes of KV cache. Pure.

The numbers are those of `config.json`; the sums are those of the layers in transformers' `modeling_qwen2`, `qwen3`,
`qwen3_moe` and `qwen3_next`, and give the published sizes to the byte (tests/hub/test_architecture.py).
"""

from dataclasses import dataclass
from enum import StrEnum


class Precision(StrEnum):
    """In what a checkpoint's large matrices are stored."""

    BF16 = "bf16"
    FP8 = "fp8"
    INT4 = "int4"  # AWQ and GPTQ-Int4


# Bytes of a parameter that is quantised. FP8: one byte and a scale of four per block of 128 × 128. Int4, in groups of
# 128: half a byte, a scale of two bytes and a zero point of half a byte per group.
QUANTISED_BYTES = {
    Precision.BF16: 2.0,
    Precision.FP8: 1 + 4 / (128 * 128),
    Precision.INT4: 0.5 + (2 + 0.5) / 128,
}
PLAIN_BYTES = 2  # embeddings, norms, routers, encoders: bfloat16 in every variant
KV_BYTES = 2  # per value of the KV cache, bfloat16; `--kv-cache-dtype fp8` halves it
STATE_BYTES = 4  # per value of a linear layer's state, kept in float32 (`mamba_ssm_dtype` of Qwen3.5's config.json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts: so many, so many at work per token, each *hidden* wide; shared ones always work."""

    count: int
    active: int
    hidden: int
    shared_hidden: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Gated delta-net layers instead of attention in all but every *full_every*-th layer (Qwen3-Next, Qwen3.5)."""

    full_every: int
    key_heads: int
    value_heads: int
    head_dim: int = 128
    kernel: int = 4

    @property
    def key_width(self) -> int:
        """The width of all keys together."""
        return self.key_heads * self.head_dim

    @property
    def value_width(self) -> int:
        """The width of all values together."""
        return self.value_heads * self.head_dim

    def matrices(self, hidden: int) -> int:
        """Parameters of the large projections of one layer."""
        return hidden * (2 * self.key_width + 2 * self.value_width) + self.value_width * hidden

    def plain(self, hidden: int) -> int:
        """The other parameters of one layer: the gates' projection, the convolution, decays and a norm."""
        convolution = (2 * self.key_width + self.value_width) * self.kernel
        return hidden * 2 * self.value_heads + convolution + 2 * self.value_heads + self.head_dim

    @property
    def state_values(self) -> int:
        """Values that one layer keeps per sequence, whatever its length: the state, and the convolution's tail."""
        tail = (2 * self.key_width + self.value_width) * (self.kernel - 1)
        return self.value_heads * self.head_dim * self.head_dim + tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder. *encoder_parameters* are those of vision or audio parts beside it, loaded whole on every GPU."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    mlp_hidden: int = 0
    experts: Experts | None = None
    linear: LinearAttention | None = None
    is_tied: bool = False
    has_qkv_bias: bool = False
    has_qk_norm: bool = True
    has_output_gate: bool = False
    has_lm_head: bool = True
    encoder_parameters: int = 0

    @property
    def full_layers(self) -> int:
        """The layers with attention over the whole context: those that have a KV cache."""
        return self.layers // self.linear.full_every if self.linear else self.layers

    @property
    def matrix_parameters(self) -> int:
        """The parameters that a quantised variant quantises: attention, MLPs and experts."""
        linear = (self.layers - self.full_layers) * (self.linear.matrices(self.hidden) if self.linear else 0)
        return self.full_layers * self._attention + linear + self.layers * self._mlp

    @property
    def plain_parameters(self) -> int:
        """All other parameters, in bfloat16 in every variant."""
        linear = (self.layers - self.full_layers) * (self.linear.plain(self.hidden) if self.linear else 0)
        per_layer = 2 * self.hidden + self._router
        return (
            self._embeddings
            + self.hidden
            + self.layers * per_layer
            + self.full_layers * self._attention_plain
            + linear
            + self.encoder_parameters
        )

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.matrix_parameters + self.plain_parameters

    @property
    def active_parameters(self) -> int:
        """Those at work for one token: of the experts only the chosen ones."""
        if self.experts is None:
            return self.parameters
        idle = self.experts.count - self.experts.active
        return self.parameters - self.layers * idle * 3 * self.hidden * self.experts.hidden

    def weight_bytes(self, precision: Precision) -> int:
        """The bytes of the weights at *precision*."""
        return round(self.matrix_parameters * QUANTISED_BYTES[precision]) + self.plain_parameters * PLAIN_BYTES

    @property
    def kv_bytes_per_token(self) -> int:
        """The bytes of KV cache that a token of context takes, over all GPUs, with nothing held twice."""
        return self.kv_bytes_per_token_on(tensor=1, stages=1)

    def kv_bytes_per_token_on(self, *, tensor: int, stages: int) -> int:
        """
        The bytes of KV cache per token on the fullest GPU of *tensor* × *stages*.

        Fewer KV heads than GPUs are held several times: a GPU has at least one whole head.
        """
        layers, heads = -(-self.full_layers // stages), -(-self.kv_heads // tensor)
        return 2 * layers * heads * self.head_dim * KV_BYTES

    def state_bytes_on(self, *, tensor: int, stages: int) -> int:
        """The bytes that a sequence takes on the fullest GPU besides its KV cache: the state of linear layers."""
        if self.linear is None:
            return 0
        layers = -(-(self.layers - self.full_layers) // stages)
        return -(-layers * self.linear.state_values * STATE_BYTES // tensor)

    def weight_bytes_on(self, precision: Precision, *, tensor: int, stages: int) -> int:
        """
        The bytes of the weights on the fullest GPU of *tensor* × *stages*.

        Matrices and embeddings are cut into *tensor* parts, layers into *stages*; the first stage has the encoders,
        whole, and the last the output's matrix. Norms and routers, which every GPU holds, are small beside them.
        """
        share = -(-self.layers // stages) / self.layers
        matrices = self.matrix_parameters * QUANTISED_BYTES[precision] * share / tensor
        embeddings = self._embeddings // 2 if stages > 1 and self._has_own_head else self._embeddings
        rest = self.plain_parameters - self._embeddings - self.encoder_parameters
        return round(matrices + PLAIN_BYTES * (embeddings / tensor + rest * share + self.encoder_parameters))

    def can_split(self, tensor: int) -> bool:
        """Tell whether vLLM can spread it over *tensor* GPUs: heads come out even, KV heads do or are held twice."""
        return self.heads % tensor == 0 and (self.kv_heads % tensor == 0 or tensor % self.kv_heads == 0)

    def needs_expert_parallel(self, precision: Precision, tensor: int) -> bool:
        """Tell whether *tensor* cuts an expert's FP8 blocks of 128 apart, which vLLM refuses: whole experts then."""
        return precision is Precision.FP8 and self.experts is not None and self.experts.hidden % (128 * tensor) != 0

    @property
    def _has_own_head(self) -> bool:
        return self.has_lm_head and not self.is_tied

    @property
    def _embeddings(self) -> int:
        return self.vocabulary * self.hidden * (2 if self._has_own_head else 1)

    @property
    def _attention(self) -> int:
        queries = self.heads * self.head_dim
        gate = queries if self.has_output_gate else 0
        return self.hidden * (queries + gate + 2 * self.kv_heads * self.head_dim) + queries * self.hidden

    @property
    def _attention_plain(self) -> int:
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.has_qkv_bias else 0
        return bias + (2 * self.head_dim if self.has_qk_norm else 0)

    @property
    def _mlp(self) -> int:
        if self.experts is None:
            return 3 * self.hidden * self.mlp_hidden
        return 3 * self.hidden * (self.experts.count * self.experts.hidden + self.experts.shared_hidden)

    @property
    def _router(self) -> int:
        if self.experts is None:
            return 0
        return self.hidden * self.experts.count + (self.hidden if self.experts.shared_hidden else 0)
