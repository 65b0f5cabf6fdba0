"""Dockerfiles as lists of instructions."""

import re
from dataclasses import dataclass
from pathlib import Path

INSTRUCTIONS = {
    *("ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    name: str
    words: str


def read(path: Path) -> list[Instruction]:
    """Give the instructions of a Dockerfile. Raises ValueError for a line that is none."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    found = [Instruction(*line.split(None, 1)) for line in lines]
    if unknown := {each.name for each in found} - INSTRUCTIONS:
        raise ValueError(f"{path}: {unknown} are no instructions that are used here")
    return found


def stages(instructions: list[Instruction]) -> list[list[Instruction]]:
    """Cut a Dockerfile into its stages, each from its FROM on."""
    cuts = [number for number, each in enumerate(instructions) if each.name == "FROM"]
    return [instructions[begin:end] for begin, end in zip(cuts, [*cuts[1:], None], strict=True)]
