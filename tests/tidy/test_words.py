"""Words that have no place in the tree, and silences that must give their reason."""

import re
from pathlib import Path

from tests.tidy.source import text, tracked

# Spelled in pieces, or this file would be the first offence.
REGISTRIES = re.compile(
    "|".join(re.escape(host) for host in ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.", "yarn" + "pkg.com"))
)
TORCH_INDEX = "download.py" + "torch.org"
TORCH_INDEX_MAY_BE_IN = {"requirements/sources"}  # registries have no CPU build of PyTorch, so its own index is named
LEFTOVERS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
BARE_SILENCE = re.compile(r"#\s*noqa(?!: ?[A-Z]+\d)|#\s*type: ignore(?!\[)|#\s*fmt: ?off")
SKIP = re.compile(r"(?:mark\.(?:skipif|skip|xfail)|pytest\.(?:skip|xfail))\b(?!\w)")

TEXTS = [path for path in tracked() if path.suffix not in {".png", ".ico", ".gz", ".jsonl"}]
PYTHON = [path for path in TEXTS if path.suffix == ".py"]


def test_no_registry_is_named():
    """Where packages come from is the machine's business: pip, uv and npm are configured outside of the tree."""
    assert not [path for path in TEXTS if REGISTRIES.search(text(path))]
    assert {str(path) for path in TEXTS if TORCH_INDEX in text(path)} == TORCH_INDEX_MAY_BE_IN


def test_nothing_is_left_to_do():
    assert not [path for path in TEXTS if path.suffix != ".lock" and LEFTOVERS.search(text(path))]


def test_silenced_rules_are_named():
    assert not [path for path in PYTHON if BARE_SILENCE.search(text(path))]


def test_skipped_tests_say_why():
    assert not [
        path
        for path in PYTHON
        if path.parts[0] == "tests"
        for skip in SKIP.finditer(text(path))
        if not _has_reason(path, skip)
    ]


def _has_reason(path: Path, skip: re.Match[str]) -> bool:
    call = text(path)[skip.end() :].split("\n\n", 1)[0][:400]
    return "reason=" in call or re.match(r"\(\s*f?[\"']", call) is not None
