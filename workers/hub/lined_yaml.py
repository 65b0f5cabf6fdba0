"""YAML whose mappings know the line they begin on, and in which no name may stand twice."""

from pathlib import Path
from typing import Any

import yaml

from workers.errors import WorkerError


class LinedMapping(dict[str, Any]):
    """A mapping of a YAML file, with the *file*'s name and the *line* it begins on, from 1."""

    file: str = ""
    line: int = 0


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; only what a mapping becomes is ours."""


def _construct(loader: _Loader, node: yaml.MappingNode) -> Any:
    made = LinedMapping()
    made.file, made.line = Path(loader.name).name, node.start_mark.line + 1
    yield made  # first the empty one: an anchor inside may point at it
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in made:
            line = key_node.start_mark.line + 1
            raise WorkerError(f"{made.file}, line {line}: {key!r} is there twice in one mapping.")
        made[key] = loader.construct_object(value_node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct)


def load_lined(path: Path) -> LinedMapping:
    """Read a YAML file that holds a mapping. Raises WorkerError with the line of what is wrong."""
    try:
        with path.open(encoding="utf-8") as file:
            tree = yaml.load(file, Loader=_Loader)  # noqa: S506  a safe loader
    except OSError as error:
        raise WorkerError(f"{path} cannot be read ({error.strerror}).") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise WorkerError(f"{path.name}, line {line}: not valid YAML: {error.problem}.") from error
    if not isinstance(tree, LinedMapping):
        raise WorkerError(f"{path.name}, line 1: it must hold a mapping.")
    return tree
