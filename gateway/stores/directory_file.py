"""
The Directory's snapshot on local disk, for a start without the database.

One JSON object a line: the version and the fields that rows have, then every row. Written line by line, because
encoding 200,000 keys by one call would hold Python's lock, and with it the event loop, for half a second.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import structlog

from gateway.core.budgets import Budget
from gateway.core.directory import Changes, Key, Model, Snapshot, Tenant
from gateway.core.limits import Limit
from gateway.core.pools import PoolSpec, pool_from_row, pool_to_row
from gateway.core.prices import PRICE_FIELDS, PriceVersion, price_from_row, price_to_row

ROWS_PER_TURN = 200  # rows written before other threads get their turn: some 1 ms

_Row = Tenant | Key | Model | Limit | Budget
_KINDS: dict[str, type[_Row]] = {"tenant": Tenant, "key": Key, "model": Model, "limit": Limit, "budget": Budget}
_PRICE, _POOL = "price", "pool"
_MAKERS: dict[str, Callable[..., _Row | PriceVersion | PoolSpec]] = {
    **_KINDS,
    _PRICE: price_from_row,
    _POOL: pool_from_row,
}

# What a version of Sluice knows of each kind; another version's file has other fields.
_FIELDS = {kind: [field.name for field in fields(row_type)] for kind, row_type in _KINDS.items()}
_FIELDS[_PRICE] = list(PRICE_FIELDS)
_FIELDS[_POOL] = [field.name for field in fields(PoolSpec)]

log = structlog.get_logger()


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Replace the file at *path* in one step; only its owner may read it. Blocking. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8", opener=_open_private) as file:
        for number, line in enumerate(_lines(snapshot)):
            file.write(line)
            if number % ROWS_PER_TURN == 0:
                time.sleep(0)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_snapshot(path: Path) -> Snapshot:
    """
    Read the file at *path*; an empty snapshot if there is none, or none that can be read. Blocking.

    The rows of a file with other fields than ours count as version 0: they serve until the store answers, and then all
    is read again, since what they lack may have been declared before the version at which they were written.
    """
    try:
        with path.open(encoding="utf-8") as file:
            head = json.loads(next(file))
            version = int(head["version"])
            is_ours = head.get("fields") == _FIELDS
            rows = [_row(json.loads(line)) for line in file]
    except FileNotFoundError:
        return Snapshot()
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        log.warning("directory_file_unreadable", path=str(path), error=repr(error))
        return Snapshot()
    return Snapshot().apply(
        Changes(
            version=version if is_ours else 0,
            tenants=tuple(row for row in rows if isinstance(row, Tenant)),
            keys=tuple(row for row in rows if isinstance(row, Key)),
            models=tuple(row for row in rows if isinstance(row, Model)),
            prices=tuple(row for row in rows if isinstance(row, PriceVersion)),
            limits=tuple(row for row in rows if isinstance(row, Limit)),
            budgets=tuple(row for row in rows if isinstance(row, Budget)),
            pools=tuple(row for row in rows if isinstance(row, PoolSpec)),
        )
    )


def _lines(snapshot: Snapshot) -> Iterator[str]:
    yield json.dumps({"version": snapshot.version, "fields": _FIELDS}) + "\n"
    for version in snapshot.prices.by_id.values():
        yield json.dumps({_PRICE: price_to_row(version)}) + "\n"
    for pool in snapshot.pools.values():
        yield json.dumps({_POOL: pool_to_row(pool)}) + "\n"
    kinds: dict[str, Mapping[str, _Row]] = {
        "tenant": snapshot.tenants,
        "key": snapshot.keys,
        "model": snapshot.models,
        "limit": snapshot.limits,
        "budget": snapshot.budgets,
    }
    for kind, rows in kinds.items():
        for row in rows.values():
            yield json.dumps({kind: {name: getattr(row, name) for name in _FIELDS[kind]}}) + "\n"


def _row(line: dict[str, Any]) -> _Row | PriceVersion | PoolSpec:
    ((kind, values),) = line.items()
    return _MAKERS[kind](**values)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
