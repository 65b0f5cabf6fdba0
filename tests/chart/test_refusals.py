"""Values that cannot work are refused in words that say which value, what is wrong with it, and what to do."""

import re
from pathlib import Path

import pytest

from tests.chart.rendered import refusal

pytestmark = pytest.mark.helm
GOLDEN = Path(__file__).parent / "golden" / "refusals.txt"
POOL = {"model": "Qwen/Qwen3-8B"}
CASES = {
    "sqlite with two gateways": {"database": {"kind": "sqlite"}, "gateway": {"replicas": 2}},
    "sqlite with autoscaling": {
        "database": {"kind": "sqlite"},
        "gateway": {"replicas": 1, "autoscaling": {"enabled": True}},
    },
    "two gateways without Redis": {"redis": {"kind": "none"}},
    "a Redis of our own without a password": {"redis": {"kind": "bundled"}, "secrets": {"existingSecret": ""}},
    "two gateways, one disk of jobs": {"gateway": {"objects": {"accessMode": "ReadWriteOnce"}}},
    "fewest above most": {"gateway": {"autoscaling": {"enabled": True, "min": 5, "max": 3}}},
    "a pool with fewest above most": {"pools": {"p": {**POOL, "workers": {"min": 3, "max": 2}}}},
    "a pool that nobody would start": {"pools": {"p": {**POOL, "workers": {"min": 0}}}},
    "a pool that may never run": {
        "pools": {"p": {**POOL, "workers": {"min": 0, "max": 0}}},
        "scaling": {"enabled": True},
    },
    "GPUs that nodes cannot share": {
        "pools": {
            "p": {"model": "/models/x", "gpus_per_worker": 3, "kubernetes": {"nodes": 2, "cache": {"claim": "models"}}}
        }
    },
    "an authority for gateways without https": {
        "pools": {"p": POOL},
        "worker": {"tls": {"ca": {"existingSecret": "gateways"}}},
    },
    "a pool's token by its value": {"pools": {"p": {**POOL, "kubernetes": {"token": "wt-p-0123"}}}},
    "a pool without a model": {"pools": {"p": {"workers": {"min": 1}}}},
    "a slip in a pool": {"pools": {"p": {**POOL, "workers": {"minimum": 1}}}},
    "a slip in a setting": {"gateway": {"settings": {"queue": {"waiting_maximum": 5}}}},
    "a setting that the chart makes": {"gateway": {"settings": {"database_url": "postgresql://u:p@h/d"}}},
    "a file that the chart mounts": {"gateway": {"settings": {"upstream": {"ca_file": "/etc/ca.crt"}}}},
    "a setting out of its bounds": {"gateway": {"settings": {"directory_poll_s": 5}}},
    "an unknown section": {"gatway": {"replicas": 3}},
    "an unknown kind of database": {"database": {"kind": "mysql"}},
    "an image of no version": {"gateway": {"image": {"repository": "sluice/gateway", "tag": "latest"}}},
    "a name that Kubernetes refuses": {"pools": {"Qwen_3": POOL}},
}


def words(message: str) -> str:
    """Leave out what Helm says around the message: where in which template it was."""
    message = re.sub(r"Error: execution error at \([^)]*\): ", "", message)
    message = re.sub(r"^Error: values don't meet the specifications of the schema\(s\).*\nsluice:\n", "", message)
    return message.replace("Use --debug flag to render out invalid YAML", "").strip()


@pytest.fixture(scope="module")
def golden():
    """Read the file: a line with a name, then the words, until an empty line."""
    parts = GOLDEN.read_text().strip().split("\n\n")
    return {part.split("\n", 1)[0].strip("# "): part.split("\n", 1)[1] for part in parts}


@pytest.mark.parametrize("name", CASES)
def test_values_that_cannot_work_are_refused_in_these_words(name, tmp_path, golden):
    """To write the file anew: `python -m tests.chart.test_refusals`."""
    assert words(refusal(tmp_path, **CASES[name])) == golden[name]


def test_every_case_is_in_the_file_and_none_besides(golden):
    assert list(golden) == list(CASES)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        texts = [f"# {name}\n{words(refusal(Path(folder), **values))}" for name, values in CASES.items()]
    GOLDEN.write_text("\n\n".join(texts) + "\n")
