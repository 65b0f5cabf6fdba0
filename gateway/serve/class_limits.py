"""How long requests of each class may wait: by the gateway's settings, or as their pool declares it."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.directory import SERVICE_CLASSES, ServiceClass
from gateway.core.pools import PoolSpec
from gateway.ports.directory import DirectoryReader


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """The most seconds that a request of each class may wait: in line, and in front of a pool without any worker."""

    wait_s_max: Mapping[ServiceClass, float]
    hold_s_max: Mapping[ServiceClass, float]


class ClassLimits:
    """The limits of every pool: *defaults*, and over them what the Directory declares for it, as it stands now."""

    def __init__(self, directory: DirectoryReader, defaults: WaitLimits) -> None:
        self._directory = directory
        self._defaults = defaults
        self._made: dict[str, tuple[PoolSpec, WaitLimits]] = {}

    def of(self, pool: str) -> WaitLimits:
        """Give the limits of *pool*; a request goes by those of the moment when it is asked."""
        declared = self._directory.snapshot.pools.get(pool)
        if declared is None or not (declared.wait_s_max or declared.hold_s_max):
            return self._defaults
        made = self._made.get(pool)
        if made is None or made[0] is not declared:
            made = self._made[pool] = declared, self._over(declared)
        return made[1]

    def _over(self, declared: PoolSpec) -> WaitLimits:
        return WaitLimits(
            wait_s_max={**self._defaults.wait_s_max, **_by_class(declared.wait_s_max)},
            hold_s_max={**self._defaults.hold_s_max, **_by_class(declared.hold_s_max)},
        )


def _by_class(limits: Mapping[str, float]) -> dict[ServiceClass, float]:
    return {SERVICE_CLASSES[label]: seconds for label, seconds in limits.items() if label in SERVICE_CLASSES}
