"""Functions and files stay small. The limits below may be lowered, never raised; there is no list of exceptions."""

from statistics import median, quantiles

from tests.tidy.source import PACKAGES, functions, modules, text

FUNCTION_LINES_MEDIAN = 6
FUNCTION_LINES_P90 = 20
FUNCTION_LINES_MAX = 50
FILE_LINES_MAX = 400


def test_functions_are_short():
    lengths = [function.lines for path in modules(*PACKAGES) for function in functions(path)]
    assert median(lengths) <= FUNCTION_LINES_MEDIAN
    assert quantiles(lengths, n=10)[-1] <= FUNCTION_LINES_P90


def test_no_function_is_too_long_to_read():
    every = [function for path in modules(*PACKAGES, "tests") for function in functions(path)]
    assert not [function for function in every if function.lines > FUNCTION_LINES_MAX]


def test_no_file_is_too_long_to_read():
    assert not [path for path in modules(*PACKAGES, "tests") if len(text(path).splitlines()) > FILE_LINES_MAX]
