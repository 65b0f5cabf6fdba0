"""
The chaos run: `python -m tests.chaos.run --requests 1000000 --seed 1`, or `make chaos REQUESTS=1000000 SEED=1`.

Progress goes to stderr. The last line of stdout is JSON; the exit status is 1 if anything was lost, doubled or billed
otherwise than the engines' journals say, and stderr names the first offenders.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos.run.campaign import Campaign
from tests.chaos.run.plan import REQUESTS_PER_FAULT


def main() -> int:
    """Run the command line."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as temporary:
        folder = options.folder or Path(temporary)
        folder.chmod(0o711)  # PostgreSQL runs as a user of its own
        campaign = Campaign(folder, options.requests, options.seed, options.database, options.requests_per_fault)
        report, offenders = campaign.run()
    for offender in offenders:
        print(offender, file=sys.stderr)
    print(json.dumps(report))
    return 1 if offenders else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    add = parser.add_argument
    add("--requests", type=int, default=100_000, help="requests that clients ask for, without their retries")
    add("--seed", type=int, default=1, help="of the requests and of the faults")
    add("--database", choices=("sqlite", "postgres"), help="by default the seed decides: even ones take PostgreSQL")
    add("--requests-per-fault", type=int, default=REQUESTS_PER_FAULT, help="the fewer, the more goes wrong")
    add("--folder", type=Path, help="an empty folder in which everything is left to be looked at")
    return parser


if __name__ == "__main__":
    sys.exit(main())
