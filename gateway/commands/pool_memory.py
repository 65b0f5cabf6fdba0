"""What `sluice check` can tell of a pool's model without starting it: whether adapters belong to it."""

import json
from pathlib import Path

from gateway.control.file_fields import Finding, Findings
from gateway.control.pool_file import PoolFile
from gateway.core.pools import PoolSpec
from gateway.marked_yaml import Marked, shown

_ADAPTER_CONFIG = "adapter_config.json"  # as PEFT writes it beside every adapter
_BASE = "base_model_name_or_path"


def adapter_findings(file: PoolFile) -> list[Finding]:
    """Find adapters in folders on this machine that are none, or whose base is another model than their pool's."""
    found = Findings()
    for pool in file.pools.values():
        for name, source in pool.adapters.items():
            folder = Path(source).expanduser()
            if source and folder.is_dir():
                _check(found, file.marked.find(("pools", pool.name, "adapters", name)), pool, folder)
    return found.found


def _check(found: Findings, at: Marked, pool: PoolSpec, folder: Path) -> None:
    try:
        config = json.loads((folder / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = str(config[_BASE])
    except (OSError, ValueError, LookupError, TypeError):
        found.error(at, f"{shown(str(folder))} is no LoRA adapter: {_ADAPTER_CONFIG} with its {_BASE} is missing")
        return
    if Path(base).name.lower() != Path(pool.model).name.lower():
        found.warning(at, f"the adapter was made for {shown(base)}, the pool runs {shown(pool.model)}")


def memory_findings(file: PoolFile) -> list[Finding]:
    """Find models that cannot fit."""
    del file
    return []
