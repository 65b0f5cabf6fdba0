"""The source tree as the tidy tests see it: modules, their imports, their functions, and the tracked files."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "workers")


@dataclass(frozen=True, slots=True)
class Function:
    """A function and how many lines its body has; a signature is a table, a docstring is prose."""

    where: str
    lines: int


def modules(*packages: str) -> list[Path]:
    """List the Python files of *packages*, relative to the root."""
    return sorted(path.relative_to(ROOT) for package in packages for path in (ROOT / package).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def dotted(path: Path) -> str:
    """Give the module name of a file."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Give the modules of this project that a file imports, wherever in it, by dotted name."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {_module_of(name) for name in names if name.split(".")[0] in PACKAGES}


def _module_of(name: str) -> str:
    """Cut what a module contains off a dotted name: the longest prefix that is a module."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        stem = ROOT.joinpath(*parts[:end])
        if stem.with_suffix(".py").exists() or (stem / "__init__.py").exists():
            return ".".join(parts[:end])
    return name


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            yield Function(f"{path}:{node.lineno} {node.name}", lines)


@cache
def tracked() -> tuple[Path, ...]:
    """List the files under version control that are there, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file())


def text(path: Path) -> str:
    return (ROOT / path).read_text(errors="replace")
