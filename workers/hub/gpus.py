"""The accelerators that `sluice models fit` knows: their memory, and which checkpoints they can compute with."""

import re
from dataclasses import dataclass

from workers.errors import WorkerError
from workers.hub.architecture import Precision

_ALL = (Precision.BF16, Precision.FP8, Precision.INT4)
_BF16 = (Precision.BF16,)
GPUS_PER_NODE = 8
GPUS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Gpu:
    """
    A kind of GPU: what its driver reports as memory, in bytes, and the precisions of checkpoints that run on it.

    On GPUs older than Ada and Hopper, FP8 checkpoints run with weights that are widened on the fly (Marlin).
    """

    name: str
    memory_bytes: int
    precisions: tuple[Precision, ...] = _ALL


@dataclass(frozen=True, slots=True)
class Gpus:
    """So many GPUs of one kind; up to eight of them are one node, within which tensor parallelism stays."""

    gpu: Gpu
    count: int

    def __str__(self) -> str:
        return f"{self.gpu.name}:{self.count}"


def _known(name: str, mib: int, precisions: tuple[Precision, ...] = _ALL) -> tuple[str, Gpu]:
    return name.upper().replace(" ", ""), Gpu(name, mib << 20, precisions)


# Mebibytes as `nvidia-smi --query-gpu=memory.total` and `npu-smi info` print them, with ECC on where it can be.
KNOWN = dict(
    (
        _known("B200", 183_359),
        _known("H200", 143_771),
        _known("H100", 81_559),
        _known("H800", 81_559),
        _known("H20", 97_871),
        _known("A100-80", 81_920),
        _known("A100-40", 40_960),
        _known("A800", 81_920),
        _known("L40S", 46_068),
        _known("L20", 46_068),
        _known("L4", 23_034),
        _known("A10", 23_028),
        _known("RTX 5090", 32_607),
        _known("RTX 4090", 24_564),
        _known("RTX 3090", 24_576),
        _known("Ascend 910B", 65_536, _BF16),
    )
)
_SHORT = {"4090": "RTX4090", "5090": "RTX5090", "3090": "RTX3090", "A100": "A100-80", "910B": "ASCEND910B"}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(GB|GIB)")


def parse_gpus(text: str) -> Gpus:
    """
    Read `H200:8`, `RTX 4090` (one of them) or `141GB:8` (of any kind, by its memory).

    Raises WorkerError that lists the kinds that are known.
    """
    name, _, number = text.partition(":")
    if not (number or "1").isdigit() or not 1 <= int(number or 1) <= GPUS_MAX:
        raise WorkerError(f"{text!r}: {number!r} is not a number of GPUs from 1 to {GPUS_MAX}. Write H200:8.")
    return Gpus(_gpu(name.strip()), int(number or 1))


def _gpu(name: str) -> Gpu:
    key = re.sub(r"[\s_]", "", name.upper())
    key = re.sub(r"^(NVIDIA|GEFORCE|HUAWEI|TESLA)-?", "", key)
    if gpu := KNOWN.get(_SHORT.get(key, key)):
        return gpu
    if match := _MEMORY.fullmatch(key):
        unit = 10**9 if match[2] == "GB" else 1 << 30
        return Gpu(name, int(float(match[1]) * unit))
    kinds = ", ".join(gpu.name for gpu in KNOWN.values())
    raise WorkerError(f"The GPU {name!r} is not known. Known are {kinds}; of any other, give the memory: 141GB:8.")
