"""
What `sluice worker --pool` and `sluice up --pool` take from sluice.yaml: what a pool's workers run.

The file is read here, in the outermost ring, and handed on as plain options: workers know nothing of a gateway's
files, and a worker starts the same way whether or not a gateway answers. What was given on the command line, or by a
variable, goes before the file (docs/adr/0009-pools.md).
"""

from collections.abc import Mapping
from typing import Any

import typer

from gateway.commands.pool_desk import read_file
from gateway.control.pool_file import PoolFile
from gateway.core.pools import PoolSpec
from gateway.errors import InvalidInput
from gateway.marked_yaml import did_you_mean
from gateway.settings import config_path

HELP = """

    With --pool NAME, and a sluice.yaml here (or at SLUICE_CONFIG) that declares it, what is not given comes from there:
    --model, --revision, --served-name, --engine-arg, --adapter, --tensor-parallel-size, --pipeline-parallel-size and
    --drain-s. An option that is given goes before the file.
"""


def pool_file() -> PoolFile | None:
    """Read the sluice.yaml that there is, if there is one. Raises InvalidInput with all its errors."""
    if not config_path().exists():
        return None
    file = read_file(None)
    file.check()
    return file


def declared_pool(file: PoolFile | None, name: str) -> PoolSpec:
    """Find a pool of *file*. Raises InvalidInput."""
    pools = file.pools if file else {}
    if name not in pools:
        where = file.file if file else config_path()
        known = f" It declares {', '.join(pools)}." if pools else " It declares none."
        raise InvalidInput(f"{where} declares no pool {name!r}.{did_you_mean(name, pools)}{known}")
    return pools[name]


def is_given(context: typer.Context, option: str) -> bool:
    """Tell whether somebody gave *option*, on the command line or by a variable."""
    source = context.get_parameter_source(option)
    return source is not None and source.name != "DEFAULT"


def with_declared(context: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options of `sluice worker`, those that were not given taken from the pool that sluice.yaml declares."""
    file = pool_file() if options["pool"] else None
    if file is None or options["pool"] not in file.pools:
        return dict(options)
    taken = {
        name: value
        for name, value in worker_options(file.pools[options["pool"]]).items()
        if name in options and not is_given(context, name)
    }
    typer.echo(f"{file.file}, pool {options['pool']}: {_shown(taken)}", err=True)
    return {**options, **taken}


def worker_options(pool: PoolSpec) -> dict[str, Any]:
    """Give what *pool* says as options of `sluice worker`, by the names of its parameters."""
    return {
        "model": pool.model,
        "revision": pool.revision,
        "served_name": list(pool.serves),
        "engine_arg": list(pool.engine_args),
        "adapter": [f"{name}={source}" for name, source in pool.adapters.items()],
        "tensor_parallel_size": pool.tensor,
        "pipeline_parallel_size": pool.pipeline,
        "drain_s": pool.drain_s,
    }


def _shown(taken: Mapping[str, Any]) -> str:
    texts = {name: " ".join(value) if isinstance(value, list) else str(value) for name, value in taken.items()}
    return ", ".join(f"{name.replace('_', '-')} {text}" for name, text in texts.items() if text) or "all given here"
