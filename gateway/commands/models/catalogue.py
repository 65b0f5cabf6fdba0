"""Models to choose from: the catalogue, one model with all that is known of it, and what fits on which GPUs."""

import shlex
from typing import Annotated, Any

import typer

from gateway.commands.models.files import Model, on_disk, told
from gateway.commands.output import Format, print_json, print_records
from gateway.commands.records import Home
from gateway.errors import NotFoundError
from gateway.settings import load_settings
from workers.hub.catalogue import CatalogueEntry, load_catalogue
from workers.hub.fit import Fit, fit
from workers.hub.gpus import KNOWN, Gpus, parse_gpus

COLUMNS = ("model", "family", "modality", "precision", "parameters_b", "active_b", "weights_gb", "context", "licence")
FIT_COLUMNS = ("model", "precision", "gpus", "layout", "copies", "weights_gb_per_gpu", "kv_tokens", "sequences", "fits")

# What `sluice worker` has options of its own for; everything else is passed through.
_OWN_OPTIONS = ("--max-model-len=", "--tensor-parallel-size=", "--pipeline-parallel-size=")


def catalogue_records() -> list[dict[str, Any]]:
    """Give the facts of every checkpoint in the catalogue."""
    with told():
        return [record(entry) for entry in load_catalogue().entries]


def record(entry: CatalogueEntry) -> dict[str, Any]:
    """Give the facts of a checkpoint."""
    return {
        "model": entry.id,
        "family": entry.family,
        "modality": entry.modality,
        "precision": str(entry.precision),
        "parameters_b": entry.parameters_b,
        "active_b": entry.active_b,
        "weights_gb": round(entry.weight_bytes / 1e9, 1),
        "weight_bytes": entry.weight_bytes,
        "download_bytes": entry.download_bytes,
        "context": entry.context_tokens or None,
        "context_max": entry.context_tokens_max or None,
        "kv_bytes_per_token": entry.kv_bytes_per_token,
        "engine": entry.engine,
        "engine_args": list(entry.engine_args),
        "checkpoints": {str(precision): model for precision, model in entry.checkpoints.items()},
        "revision": entry.revision,
        "licence": entry.licence,
        "source": entry.source,
    }


def show(model: Model, home: Home = None, output: Format = "table") -> None:
    """
    Show all that is known of a model: from the catalogue, what is on this disk, and the GPUs it fits on.

    Example: sluice models show Qwen/Qwen3-8B
    """
    copies = [row for row in on_disk(load_settings(home=home)) if row["model"].casefold() == model.casefold()]
    with told():
        entry = load_catalogue().entry(model)
    if entry is None and not copies:
        raise NotFoundError(
            f"{model} is neither in the catalogue nor on this disk. See `sluice models list --catalogue`; "
            "any other model of ModelScope can be pulled by its id."
        )
    facts = record(entry) if entry else None
    fits = [fit_record(fit(entry, Gpus(gpu, 8))) for gpu in KNOWN.values()] if entry else []
    if output == "json":
        print_json({"model": model, "catalogue": facts, "on_disk": copies, "fits": fits})
        return
    _print_sheet(facts or {"model": model, "catalogue": "not in the catalogue"}, copies, fits)


def _print_sheet(facts: dict[str, Any], copies: list[dict[str, Any]], fits: list[dict[str, Any]]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {_shown(value)}")
    for copy in copies:
        typer.echo(f"{'on disk':<{width}}  {copy['path']}{'  DAMAGED: ' + copy['problem'] if copy['problem'] else ''}")
    if fits:
        typer.echo("\nOn eight GPUs of a kind, at the model's context:")
        print_records(FIT_COLUMNS, fits, "table")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return shlex.join(value) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {one}" for name, one in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "–")


def fit_models(
    gpu: Annotated[str, typer.Option(help="GPUs and how many: H200:8, 'RTX 4090:2', or by memory, 141GB:8.")],
    model: Annotated[str | None, typer.Option(help="One checkpoint; default: all of the catalogue.")] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of context. Default: what the model serves as it is.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Sequences of that context at once, for one copy.")] = 1,
    utilisation: Annotated[
        float, typer.Option("--gpu-memory-utilization", min=0.1, max=1.0, help="The part that vLLM may fill.")
    ] = 0.92,
    output: Format = "table",
) -> None:
    """
    Say which models fit on GPUs: how each is spread, and how much context its KV cache holds.

    An estimate on the careful side; the engine's own figure stands in its log when it has started.

    Example: sluice models fit --gpu H200:8 --context 32768
    """
    with told():
        gpus = parse_gpus(gpu)
        entries = [_entry(model)] if model else load_catalogue().entries
        rows = [
            fit(entry, gpus, None, context, concurrency=concurrency, utilisation=utilisation)
            for entry in entries
            if model or _is_worth_a_row(entry, gpus)
        ]
    print_records(FIT_COLUMNS, [fit_record(row) for row in rows], output)
    if model and output == "table" and rows[0].is_fitting:
        typer.echo("\nsluice worker --model " + " ".join([rows[0].model, *map(_as_option, rows[0].engine_args)]))
    if not any(row.is_fitting for row in rows):
        raise typer.Exit(1)


def fit_record(found: Fit) -> dict[str, Any]:
    """Give the facts of a fit."""
    return {
        "model": found.model,
        "precision": str(found.precision),
        "gpus": found.gpus,
        "layout": f"TP{found.tensor} × PP{found.stages}" if found.tensor else None,
        "tensor": found.tensor,
        "stages": found.stages,
        "copies": found.copies,
        "weights_gb_per_gpu": round(found.weight_bytes_per_gpu / 1e9, 1) if found.tensor else None,
        "context_tokens": found.context_tokens,
        "kv_tokens": found.kv_tokens,
        "sequences": found.sequences,
        "engine_args": list(found.engine_args),
        "is_fitting": found.is_fitting,
        "fits": "yes" if found.is_fitting else f"no: {found.reason}",
    }


def _entry(model: str) -> CatalogueEntry:
    entry = load_catalogue().entry(model)
    if entry is None:
        raise NotFoundError(f"{model} is not in the catalogue. See `sluice models list --catalogue`.")
    return entry


def _is_worth_a_row(entry: CatalogueEntry, gpus: Gpus) -> bool:
    """Tell whether a checkpoint can run there at all: precisions the GPU has no use for are left out of the list."""
    return entry.precision in gpus.gpu.precisions


def _as_option(arg: str) -> str:
    """Write an argument of the engine as one of `sluice worker`, quoted for a shell."""
    return shlex.quote(arg if arg.startswith(_OWN_OPTIONS) else f"--engine-arg={arg}")
