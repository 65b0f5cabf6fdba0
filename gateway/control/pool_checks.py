"""What is possible in sluice.yaml and yet makes no sense once the gateway's own limits are known."""

from collections.abc import Iterator, Mapping

from gateway.control.file_fields import Finding, Findings
from gateway.control.pool_file import PoolFile
from gateway.core.pools import PoolSpec
from gateway.marked_yaml import Marked


def limit_findings(file: PoolFile, wait_s_max: Mapping[str, float], hold_s_max: Mapping[str, float]) -> list[Finding]:
    """Find limits that contradict each other; *wait_s_max* and *hold_s_max* are the gateway's, by class."""
    found = Findings()
    for pool in file.pools.values():
        for label, (wait_s, hold_s) in _limits(pool, wait_s_max, hold_s_max):
            _check(found, file, pool, label, wait_s, hold_s)
    return found.found


def _limits(
    pool: PoolSpec, wait_s_max: Mapping[str, float], hold_s_max: Mapping[str, float]
) -> Iterator[tuple[str, tuple[float, float]]]:
    for label, wait_s in wait_s_max.items():
        yield label, (pool.wait_s_max.get(label, wait_s), pool.hold_s_max.get(label, hold_s_max[label]))


def _check(found: Findings, file: PoolFile, pool: PoolSpec, label: str, wait_s: float, hold_s: float) -> None:
    at = _limit(file, pool, label)
    if hold_s > wait_s and label in pool.hold_s_max:
        found.warning(
            at,
            f"a request may be held for {hold_s:g} s without a worker, but may wait {wait_s:g} s in all: "
            f"after {wait_s:g} s it is refused anyway",
        )
    if pool.workers_min == 0 and pool.cold_start_s is not None and min(wait_s, hold_s) < pool.cold_start_s:
        found.warning(
            at,
            f"with no worker, a start takes {pool.cold_start_s:g} s, but a request of class {label} "
            f"waits {min(wait_s, hold_s):g} s at most: whoever wakes the pool is refused",
        )


def _limit(file: PoolFile, pool: PoolSpec, label: str) -> Marked:
    """Find the line that sets a limit of a class; hold before wait, else the pool's own."""
    for name, limits in (("hold_s_max", pool.hold_s_max), ("wait_s_max", pool.wait_s_max)):
        if label in limits:
            return file.marked.find(("pools", pool.name, name, label))
    return file.marked.find(("pools", pool.name))
