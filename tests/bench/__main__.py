"""Run the benchmarks and print their figures: `make bench`. Bounded: a few minutes on two cores."""

import json
import tempfile
from pathlib import Path

from tests.bench import overhead

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        figures = overhead.measure(Path(folder))
    (RESULTS / "overhead.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(f"overhead, median of {overhead.RUNS} runs (spread):")
    for name in [name for name in figures if not name.endswith("_range")]:
        print(f"  {name:28} {figures[name]:10.3f}  (± {figures[name + '_range'] / 2:.3f})")


if __name__ == "__main__":
    main()
