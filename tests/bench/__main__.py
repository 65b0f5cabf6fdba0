"""Run the benchmarks and print their figures: `make bench`. Bounded: ten minutes or so on two cores."""

import json
import tempfile
from pathlib import Path

from tests.bench import (
    continuation,
    credit,
    ledger,
    metering,
    overhead,
    planner,
    pools,
    queue,
    routing,
    scale,
    shares,
    token_ids,
    waiting,
)

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = (
    overhead,
    token_ids,
    metering,
    credit,
    queue,
    routing,
    shares,
    scale,
    waiting,
    planner,
    ledger,
    pools,
    continuation,
)


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    for benchmark in BENCHMARKS:
        name = benchmark.__name__.rpartition(".")[2]
        with tempfile.TemporaryDirectory() as folder:
            figures = benchmark.measure(Path(folder))
        (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
        print(f"{name}, median of {benchmark.RUNS} runs (spread):")
        for figure in [figure for figure in figures if not figure.endswith("_range")]:
            print(f"  {figure:28} {figures[figure]:10.3f}  (± {figures[figure + '_range'] / 2:.3f})")


if __name__ == "__main__":
    main()
