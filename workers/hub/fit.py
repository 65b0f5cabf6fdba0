"""
Which models fit on which GPUs, how they are spread, and what is left for the KV cache. Pure.

An estimate to choose by, on the careful side: the engine measures what a forward pass takes when it starts and prints
what is left ("GPU KV cache size"), and that is the truth.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from workers.hub.architecture import Architecture, Precision
from workers.hub.catalogue import CatalogueEntry
from workers.hub.gpus import GPUS_PER_NODE, Gpus

UTILISATION = 0.92  # vLLM's default of --gpu-memory-utilization
BATCHED_TOKENS = 8192  # vLLM's default step on large GPUs
# CUDA context, NCCL's buffers and the captured graphs: between 1 and 2 GiB on H100s, as vLLM's start-up log tells.
RUNTIME_BYTES = 3 << 29
# Tensors of a step that are alive at once, per token: about eight as wide as the model, three as wide as an MLP.
_HIDDEN_TENSORS, _MLP_TENSORS, _BYTES = 8, 3, 2


@dataclass(frozen=True, slots=True)
class Fit:
    """
    How a model stands on GPUs of one kind: *tensor* × *stages* of them for a copy, *copies* on all there are.

    *sequences* at the asked-for context fit into the KV cache of one copy at once; *reason* says why it does not fit.
    """

    model: str
    precision: Precision
    gpus: str
    context_tokens: int
    tensor: int = 0
    stages: int = 0
    copies: int = 0
    weight_bytes_per_gpu: int = 0
    kv_tokens: int = 0
    sequences: int = 0
    engine_args: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_fitting(self) -> bool:
        """Whether at least one sequence of the context can be served."""
        return not self.reason


def fit(
    entry: CatalogueEntry,
    gpus: Gpus,
    precision: Precision | None = None,
    context: int | None = None,
    *,
    concurrency: int = 1,
    utilisation: float = UTILISATION,
) -> Fit:
    """
    Find the fewest GPUs on which *concurrency* sequences of *context* tokens fit; tensor parallelism goes first.

    *precision* None is the checkpoint's own, *context* None the model's. If no way fits, the result says why.
    """
    precision, tokens = precision or entry.precision, context or entry.context_tokens
    blank = Fit(entry.id, precision, str(gpus), tokens)
    if problem := _problem(entry, gpus, precision, tokens):
        return _refused(blank, problem)
    best = blank
    for tensor, stages in layouts(entry, gpus):
        found = _on(entry, gpus, blank, tensor, stages, utilisation)
        if found.is_fitting and found.sequences >= concurrency:
            return found
        best = max(best, found, key=lambda one: one.kv_tokens)
    return _refused(best, _too_large(best, entry, gpus, concurrency))


def layouts(entry: CatalogueEntry, gpus: Gpus) -> Iterator[tuple[int, int]]:
    """
    Give the ways to spread a model, (tensor, stages), fewest GPUs first: by tensor within a node, by stages over nodes.

    A diffusion model stays on one GPU.
    """
    architecture = entry.architecture
    if architecture is None:
        yield 1, 1
        return
    widths = [n for n in (1, 2, 4, 8) if n <= min(gpus.count, GPUS_PER_NODE) and architecture.can_split(n)]
    yield from ((width, 1) for width in widths)
    stages_max = min(gpus.count // widths[-1], architecture.layers)
    yield from ((widths[-1], stages) for stages in range(2, stages_max + 1))


def _problem(entry: CatalogueEntry, gpus: Gpus, precision: Precision, tokens: int) -> str:
    if precision not in entry.checkpoints:
        return f"there is no {precision} checkpoint of it"
    if precision not in gpus.gpu.precisions:
        return f"{gpus.gpu.name} does not run {precision} checkpoints"
    if entry.architecture is not None and tokens > entry.context_tokens_max:
        return f"its context is {entry.context_tokens_max} tokens at most"
    return ""


def _on(entry: CatalogueEntry, gpus: Gpus, blank: Fit, tensor: int, stages: int, utilisation: float) -> Fit:
    weights = _weights(entry, blank.precision, tensor, stages)
    free = int(gpus.gpu.memory_bytes * utilisation) - weights - RUNTIME_BYTES - _step_bytes(entry.architecture, tensor)
    kv_tokens, sequences = _room(entry, free, blank.context_tokens, tensor, stages)
    return Fit(
        model=entry.checkpoints[blank.precision],
        precision=blank.precision,
        gpus=blank.gpus,
        context_tokens=blank.context_tokens,
        tensor=tensor,
        stages=stages,
        copies=gpus.count // (tensor * stages),
        weight_bytes_per_gpu=weights,
        kv_tokens=kv_tokens,
        sequences=sequences,
        engine_args=_engine_args(entry, blank, tensor, stages),
        reason="" if sequences else "too large",
    )


def _weights(entry: CatalogueEntry, precision: Precision, tensor: int, stages: int) -> int:
    if entry.architecture is None:
        return -(-entry.bytes_by_precision[precision] // tensor)
    return entry.architecture.weight_bytes_on(precision, tensor=tensor, stages=stages)


def _step_bytes(architecture: Architecture | None, tensor: int) -> int:
    """What a forward pass of a full step takes, as the engine will measure it."""
    if architecture is None:
        return 0
    mlp = architecture.mlp_hidden
    if architecture.experts is not None:
        mlp = architecture.experts.hidden * architecture.experts.active + architecture.experts.shared_hidden
    return BATCHED_TOKENS * _BYTES * (_HIDDEN_TENSORS * architecture.hidden + _MLP_TENSORS * mlp // tensor)


def _room(entry: CatalogueEntry, free: int, context: int, tensor: int, stages: int) -> tuple[int, int]:
    """Give how many tokens of KV cache, and how many sequences of *context* tokens, fit into *free* bytes of a GPU."""
    if free <= 0:
        return 0, 0
    if entry.architecture is None:
        return 0, 1  # a diffusion model keeps nothing from one step to the next; one image at a time
    per_token = entry.architecture.kv_bytes_per_token_on(tensor=tensor, stages=stages)
    per_sequence = per_token * context + entry.architecture.state_bytes_on(tensor=tensor, stages=stages)
    return free // per_token, free // per_sequence


def _engine_args(entry: CatalogueEntry, blank: Fit, tensor: int, stages: int) -> tuple[str, ...]:
    args = [*entry.engine_args, f"--max-model-len={blank.context_tokens}"] if entry.architecture else []
    if tensor > 1:
        args.append(f"--tensor-parallel-size={tensor}")
    if stages > 1:
        args.append(f"--pipeline-parallel-size={stages}")
    if entry.architecture and entry.architecture.needs_expert_parallel(blank.precision, tensor):
        args.append("--enable-expert-parallel")
    if blank.context_tokens > entry.context_tokens:
        args.append(f"--hf-overrides={entry.yarn(blank.context_tokens)}")
    return tuple(args)


def _too_large(best: Fit, entry: CatalogueEntry, gpus: Gpus, concurrency: int) -> str:
    if best.sequences:
        return f"{best.sequences} sequences of {best.context_tokens} tokens fit at most, not {concurrency}"
    if best.kv_tokens:
        return f"{best.kv_tokens} tokens of context fit at most"
    size = entry.bytes_by_precision[best.precision] / 1e9
    return f"its weights of {size:.0f} GB leave no room on {gpus}"


def _refused(best: Fit, reason: str) -> Fit:
    return Fit(
        model=best.model,
        precision=best.precision,
        gpus=best.gpus,
        context_tokens=best.context_tokens,
        kv_tokens=best.kv_tokens,
        sequences=best.sequences,
        reason=reason,
    )
