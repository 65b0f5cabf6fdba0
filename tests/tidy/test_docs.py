"""What the documents name exists: files, links, make targets, verbs and their options, settings, metrics."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from gateway.cli import app
from gateway.settings import Settings
from tests.tidy.source import ROOT, modules, text, tracked

DOCS = [path for path in tracked() if path.suffix == ".md" and path.name != "CHANGELOG.md"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
PATH = re.compile(r"(?<![\w/.-])((?:gateway|workers|tests|docs|requirements|\.ci)/[\w./-]*\w)")
SETTING = re.compile(r"\bSLUICE_[A-Z_]*[A-Z]\b")
METRIC = re.compile(r"\bsluice_[a-z_]+[a-z]\b(?!\.)")
CALL = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?sluice (\S.*)")
SUFFIXES = re.compile(r"_(total|bucket|sum|count|created)$")


def code(path: Path) -> Iterator[str]:
    """Give what stands in code in a document, a line or a span each."""
    for block, span in CODE.findall(text(path)):
        yield from block.splitlines() or [span]


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_links_lead_somewhere():
    dead = []
    for path in DOCS:
        for target in LINK.findall(text(path)):
            file, _, anchor = target.partition("#")
            if "://" in target:
                continue
            there = (ROOT / path.parent / file).resolve() if file else ROOT / path
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if there.suffix == ".md" else []
            if not there.exists() or (anchor and anchor not in map(slug, headings)):
                dead.append(f"{path}: {target}")
    assert not dead


def test_files_that_are_named_exist():
    named = {(path, name) for path in DOCS for line in code(path) for name in PATH.findall(line)}
    assert not {(str(path), name) for path, name in named if not (ROOT / name).exists()}


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z]+):", text(Path("Makefile")), re.MULTILINE))
    named = {(path, target) for path in DOCS for line in code(path) for target in re.findall(r"\bmake ([a-z]+)", line)}
    assert {"help", "up", "test", "check", "bench"} <= targets
    assert not {(str(path), target) for path, target in named if target not in targets}


def test_verbs_and_options_that_are_named_exist():
    wrong = [f"{path}: {line}" for path in DOCS for line in code(path) for words in calls(line) if not is_call(words)]
    assert not wrong


def calls(line: str) -> Iterator[list[str]]:
    """Find calls of the `sluice` command in a line of code."""
    if match := CALL.match(re.split(r" [|#] ", line)[0]):
        yield shlex.split(match.group(1).rstrip("\\"))


def is_call(words: list[str]) -> bool:
    """Tell whether *words* name a verb that there is, with options that it has."""
    command = typer.main.get_command(app)
    for word in words:
        if word.startswith("--"):
            if word.split("=")[0] not in {"--help", *_options(command)}:
                return False
        elif hasattr(command, "get_command"):
            if word == "…":
                return True
            group, command = command, command.get_command(None, word)
            if command is None:
                return bool(group.invoke_without_command)  # then it has options of its own, and this is one's value
    return True


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def leaves(model: type[BaseModel] = Settings, prefix: str = "SLUICE_") -> Iterator[tuple[str, object, str]]:
    """List every setting: variable, default, description."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name.upper()}__")
        else:
            default = "" if field.default_factory else field.default
            yield prefix + name.upper(), default, field.description or ""


@cache
def settings_table() -> str:
    """Give the table of settings as docs/operators.md must have it."""
    rows = [f"| `{name}` | {_shown(default)} | {about} |" for name, default, about in leaves()]
    return "\n".join(["| variable | default | |", "|---|---|---|", *rows])


def _shown(default: object) -> str:
    return f"`{default}`" if default not in (None, "") else ""


def test_the_table_of_settings_is_the_settings():
    """On failure, paste what `python -m tests.tidy.test_docs` prints."""
    assert settings_table() in text(Path("docs/operators.md"))


def test_every_setting_says_what_it_is():
    assert not [name for name, _, about in leaves() if not about]


def test_settings_that_are_named_exist():
    known = {name for name, _, _ in leaves()} | {"SLUICE_CONFIG", "SLUICE_"}
    named = {(path, name) for path in DOCS for name in SETTING.findall(text(path))}
    assert not {(str(path), name) for path, name in named if name not in known}


def test_metrics_that_are_named_exist():
    source = "".join(text(path) for path in modules("gateway"))
    known = {SUFFIXES.sub("", name) for name in re.findall(r'"(sluice_[a-z_]+)"', source)}
    named = {(path, name) for path in DOCS for name in METRIC.findall(text(path))}
    assert known
    assert not {(str(path), name) for path, name in named if SUFFIXES.sub("", name) not in known}


if __name__ == "__main__":
    print(settings_table())
