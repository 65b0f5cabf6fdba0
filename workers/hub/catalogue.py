"""
The open Qwen models: what each can do, what it is made of, where it lies on ModelScope, how the engine is started.

Read from `catalogue.yaml` beside this file, every line of which is checked when it is loaded.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from workers.errors import WorkerError
from workers.hub.architecture import Architecture, Experts, LinearAttention, Precision
from workers.hub.ids import DEFAULT_REVISION, is_model_id
from workers.hub.lined_yaml import LinedMapping, load_lined

CATALOGUE = Path(__file__).with_name("catalogue.yaml")
MODALITIES = frozenset({"text", "image", "video", "audio", "speech", "embedding", "score"})
_NO_CONTEXT = 0
_NATIVE_TOKENS, _ROPE_THETA = 32_768, 1_000_000  # of all models that YaRN stretches


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """
    One checkpoint. *takes* and *gives* are modalities; *checkpoints* has the ids of the same model by precision.

    *context_tokens* is what the engine serves as it is, *context_tokens_max* what YaRN stretches it to (model card).
    *parameters_unloaded* are in the files only: MTP layers, a talker. *architecture* None: a diffusion model.
    """

    id: str
    family: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    licence: str
    source: str
    precision: Precision
    checkpoints: Mapping[Precision, str]
    architecture: Architecture | None
    context_tokens: int = _NO_CONTEXT
    context_tokens_max: int = _NO_CONTEXT
    parameters_unloaded: int = 0
    diffusion_parameters: int = 0
    engine: str = "vllm"
    engine_args: tuple[str, ...] = ()
    revision: str = DEFAULT_REVISION
    note: str = ""
    line: int = field(default=0, compare=False)

    @property
    def modality(self) -> str:
        """What goes in and what comes out, as `text+image→text`."""
        return f"{'+'.join(self.takes)}→{'+'.join(self.gives)}"

    @property
    def parameters(self) -> int:
        """All parameters that the engine loads."""
        return self.architecture.parameters if self.architecture else self.diffusion_parameters

    @property
    def parameters_b(self) -> float:
        """All parameters that the engine loads, in billions."""
        return round(self.parameters / 1e9, 2)

    @property
    def active_b(self) -> float:
        """The parameters at work for one token, in billions."""
        return round((self.architecture.active_parameters if self.architecture else self.parameters) / 1e9, 2)

    @property
    def bytes_by_precision(self) -> dict[Precision, int]:
        """The bytes of the weights that the engine loads, for every precision that there is a checkpoint of."""
        if self.architecture is None:
            return dict.fromkeys(self.checkpoints, 2 * self.diffusion_parameters)
        return {precision: self.architecture.weight_bytes(precision) for precision in self.checkpoints}

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weights of this checkpoint."""
        return self.bytes_by_precision[self.precision]

    @property
    def download_bytes(self) -> int:
        """About the bytes of its files, those that the engine leaves alone included."""
        return self.weight_bytes + 2 * self.parameters_unloaded

    @property
    def kv_bytes_per_token(self) -> int:
        """The bytes of KV cache per token of context, over all GPUs; 0 for a diffusion model."""
        return self.architecture.kv_bytes_per_token if self.architecture else 0

    def yarn(self, tokens: int) -> str:
        """Give the `--hf-overrides` that stretch the context to *tokens* (model cards of Qwen3 and Qwen2.5)."""
        rope = {"rope_type": "yarn", "rope_theta": _ROPE_THETA, "original_max_position_embeddings": _NATIVE_TOKENS}
        return json.dumps({"rope_parameters": {**rope, "factor": float(-(-tokens // _NATIVE_TOKENS))}})


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All entries, in the file's order, variants after what they are variants of."""

    entries: tuple[CatalogueEntry, ...]

    def entry(self, model_id: str) -> CatalogueEntry | None:
        """Find a checkpoint by its id, whatever the case of its letters."""
        wanted = model_id.casefold()
        return next((entry for entry in self.entries if entry.id.casefold() == wanted), None)


@cache
def load_catalogue(path: Path = CATALOGUE) -> Catalogue:
    """Read the catalogue. Raises WorkerError that names the line that is wrong."""
    tree = load_lined(path)
    _allow(tree, {"architectures", "models"})
    architectures = {name: _architecture(_mapping(tree, "architectures", name)) for name in tree["architectures"]}
    entries = [entry for model in tree["models"] for entry in _entries(model, architectures)]
    seen: set[str] = set()
    for entry in entries:
        if entry.id.casefold() in seen:
            raise WorkerError(f"{path.name}, line {entry.line}: {entry.id} is there twice.")
        seen.add(entry.id.casefold())
    return Catalogue(tuple(entries))


_MODEL_KEYS = {
    *("id", "family", "architecture", "takes", "gives", "licence", "source", "variants", "context_tokens"),
    *("context_tokens_max", "parameters_unloaded", "diffusion_parameters", "engine", "engine_args", "note"),
}


def _entries(model: LinedMapping, architectures: Mapping[str, Architecture]) -> Iterator[CatalogueEntry]:
    """Make an entry of a model and of each of its variants."""
    _allow(model, _MODEL_KEYS)
    by_id = {_id(model, model["id"]): Precision.BF16}
    for name, ids in (model.get("variants") or {}).items():
        for variant in ids:
            by_id[_id(model, variant)] = _precision(model, name)
    checkpoints: dict[Precision, str] = {}
    for model_id, precision in by_id.items():
        checkpoints.setdefault(precision, model_id)
    for model_id, precision in by_id.items():
        yield _entry(model, architectures, model_id, precision, checkpoints)


def _entry(
    model: LinedMapping,
    architectures: Mapping[str, Architecture],
    model_id: str,
    precision: Precision,
    checkpoints: Mapping[Precision, str],
) -> CatalogueEntry:
    context = _number(model, "context_tokens")
    return CatalogueEntry(
        id=model_id,
        family=_text(model, "family"),
        takes=_modalities(model, "takes"),
        gives=_modalities(model, "gives"),
        licence=_text(model, "licence"),
        source=_text(model, "source"),
        precision=precision,
        checkpoints=checkpoints,
        architecture=_named(model, architectures),
        context_tokens=context,
        context_tokens_max=max(context, _number(model, "context_tokens_max")),
        parameters_unloaded=_number(model, "parameters_unloaded"),
        diffusion_parameters=_number(model, "diffusion_parameters"),
        engine=str(model.get("engine", "vllm")),
        engine_args=tuple(str(arg) for arg in model.get("engine_args") or ()),
        note=str(model.get("note", "")),
        line=model.line,
    )


def _named(model: LinedMapping, architectures: Mapping[str, Architecture]) -> Architecture | None:
    name = str(model.get("architecture", ""))
    if not name and _number(model, "diffusion_parameters"):
        return None
    if name not in architectures:
        raise _wrong(model, f"the architecture {name!r} is not defined above")
    if not _number(model, "context_tokens"):
        raise _wrong(model, "context_tokens is missing")
    return architectures[name]


_ARCHITECTURE_NUMBERS = {
    *("layers", "hidden", "heads", "kv_heads", "head_dim", "vocabulary", "mlp_hidden", "encoder_parameters"),
}
_ARCHITECTURE_FLAGS = {"is_tied", "has_qkv_bias", "has_qk_norm", "has_output_gate", "has_lm_head"}


def _architecture(tree: LinedMapping) -> Architecture:
    _allow(tree, {*_ARCHITECTURE_NUMBERS, *_ARCHITECTURE_FLAGS, "experts", "linear"})
    values: dict[str, Any] = {name: _number(tree, name) for name in _ARCHITECTURE_NUMBERS if name in tree}
    values |= {name: bool(tree[name]) for name in _ARCHITECTURE_FLAGS if name in tree}
    if "experts" in tree:
        values["experts"] = _made(Experts, _mapping(tree, "experts"))
    if "linear" in tree:
        values["linear"] = _made(LinearAttention, _mapping(tree, "linear"))
    try:
        return Architecture(**values)
    except TypeError as error:
        raise _wrong(tree, str(error).partition("()")[2].strip() or str(error)) from error


def _made(kind: Any, tree: LinedMapping) -> Any:
    try:
        return kind(**{name: _number(tree, name) for name in tree})
    except TypeError as error:
        raise _wrong(tree, str(error).partition("()")[2].strip() or str(error)) from error


def _mapping(tree: LinedMapping, *names: str) -> LinedMapping:
    for name in names:
        value = tree[name]
        if not isinstance(value, LinedMapping):
            raise _wrong(tree, f"{name} must be a mapping")
        tree = value
    return tree


def _allow(tree: LinedMapping, names: set[str]) -> None:
    if unknown := [name for name in tree if name not in names]:
        raise _wrong(tree, f"{unknown[0]!r} is not known here; known are {', '.join(sorted(names))}")


def _text(tree: LinedMapping, name: str) -> str:
    value = tree.get(name)
    if not isinstance(value, str) or not value:
        raise _wrong(tree, f"{name} must be a text")
    return value


def _number(tree: LinedMapping, name: str) -> int:
    value = tree.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _wrong(tree, f"{name} must be a whole number, not {value!r}")
    return value


def _modalities(tree: LinedMapping, name: str) -> tuple[str, ...]:
    values = tree.get(name)
    if not isinstance(values, list) or not values or not set(values) <= MODALITIES:
        raise _wrong(tree, f"{name} must list some of {', '.join(sorted(MODALITIES))}")
    return tuple(values)


def _id(tree: LinedMapping, value: object) -> str:
    if not isinstance(value, str) or not is_model_id(value):
        raise _wrong(tree, f"{value!r} is not a ModelScope id such as Qwen/Qwen3-8B")
    return value


def _precision(tree: LinedMapping, name: object) -> Precision:
    try:
        return Precision(str(name))
    except ValueError as error:
        known = ", ".join(Precision)
        raise _wrong(tree, f"{name!r} is not a precision of a variant; known are {known}") from error


def _wrong(tree: LinedMapping, what: str) -> WorkerError:
    return WorkerError(f"{tree.file}, line {tree.line}: {what}.")
