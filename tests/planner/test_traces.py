"""Traces: two forms are read, and what is wrong with a file is said with its line."""

import re

import pytest

from gateway.errors import InvalidInput
from gateway.planner.traces import read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.fixture
def write(tmp_path):
    def put(text):
        path = tmp_path / "trace"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return put


def shape(requests):
    return [(round(one.at_s, 6), one.prompt_tokens, one.output_tokens) for one in requests]


def test_mooncakes_lines_are_read_and_its_rounded_times_are_spread(write):
    lines = [(9000, 10, 1), (9000, 20, 2), (9000, 30, 0), (12_000, 40, 4), (99_000, 50, 5)]
    text = "".join(f'{{"timestamp": {t}, "input_length": {p}, "output_length": {o}}}\n' for t, p, o in lines)
    requests = read_trace(write(text + "\n"))
    assert shape(requests) == [(0, 10, 1), (1, 20, 2), (2, 30, 1), (3, 40, 4), (90, 50, 5)]


def test_azures_table_is_read_whatever_the_digits_of_its_times_and_put_in_order(write):
    rows = "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47,1,0\n"
    assert shape(read_trace(write(AZURE + rows))) == [(0, 374, 44), (0.31941, 1, 1), (4.314579, 396, 109)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (AZURE, "has a heading, but no requests"),
        (
            "a,b\n1,2\n",
            "line 1, begins neither as Mooncake's JSON lines nor as Azure's CSV: it has no column 'TIMESTAMP'",
        ),
        (AZURE + "2023-11-16 18:15:46,374,44\nyesterday,1,1\n", "line 3, has 'yesterday' for 'TIMESTAMP'"),
        (AZURE + "2023-11-16 18:15:46,many,44\n", "line 2, has 'many' for 'ContextTokens'"),
        (AZURE + "2023-11-16 18:15:46,5\n", "line 2, has None for 'GeneratedTokens'"),
        (AZURE + "2023-11-16 18:15:46,-5,1\n", "line 2, has fewer than 0 tokens"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n{"timestamp"\n', "line 2, is not JSON"),
        ('{"timestamp": 0, "input_length": 1}\n', "line 1, has None for 'output_length'"),
        ('{"timestamp": true, "input_length": 1, "output_length": 1}\n', "line 1, has True for 'timestamp'"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n[]\n', "line 2, is not a JSON object"),
        (b"\xff\xfe", "is not text"),
    ],
)
def test_a_wrong_trace_is_told_with_its_line(write, text, said):
    path = write(text)
    with pytest.raises(InvalidInput, match=f"^The trace {path}.*{re.escape(said)}"):
        read_trace(path)


def test_a_missing_trace_is_told(tmp_path):
    with pytest.raises(InvalidInput, match=r"nowhere\.jsonl cannot be read: No such file or directory"):
        read_trace(tmp_path / "nowhere.jsonl")
