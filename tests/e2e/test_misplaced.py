"""Ranks that leave their places on purpose (faults/misplaced.py) are found: the right rank, slug and status.

Memory needs a node with NUMA domains to choose from: test_numavm.py.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import CHECKOUT, Done

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Rankmap = Callable[..., Done]

pytestmark = [
    pytest.mark.dragon,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores to be wrong about"),
]

MISPLACED = ("--", sys.executable, str(CHECKOUT / "tests" / "e2e" / "faults" / "misplaced.py"))
LONG_S = "15"  # found in a look, a suspect is looked at for 6.2 s before it is a finding


def findings(report_file: Path) -> list[list[str]]:
    """Return the slugs of each rank, sorted."""
    report: dict[str, Any] = json.loads(report_file.read_text())
    return [sorted({finding["slug"] for finding in rank["findings"]}) for rank in report["ranks"]]


def test_ranks_and_threads_on_cpus_of_others_are_found(rankmap: Rankmap, tmp_path: Path) -> None:
    """From the start, in a second thread, or later under --watch; the rank beside that did nothing has no finding."""
    file = tmp_path / "report.json"
    done = rankmap(
        "launch", "-n", "4", "-c", "1", "--oversubscribe", "--pmi", "none", "--verify", "warn", "--watch", "1",
        "--report", str(file), *MISPLACED, LONG_S, "cpu", "thread", "late", "none",
    )  # fmt: skip
    assert [["thread-outside-cpus"]] * 3 + [[]] == findings(file), done.stderr
    assert (0, "rankmap: placement: 1/4 ranks as planned, 3 not as planned") == (done.status, done.last_line)
    said = [line for line in done.stderr.splitlines() if "(thread-outside-cpus): planned CPUs" in line]
    assert [0, 1, 2] == sorted(int(line.split()[2]) for line in said)


def test_threads_in_each_others_way_are_warned_of(rankmap: Rankmap, tmp_path: Path) -> None:
    """What the plan allows is no mismatch, but said once, and in the report: the job goes on."""
    file = tmp_path / "report.json"
    done = rankmap(
        "launch", "-n", "3", "--oversubscribe", "--bind-to", "none", "--pmi", "none", "--watch", "2",
        "--report", str(file), *MISPLACED, LONG_S, "one-core", "pin", "none",
    )  # fmt: skip
    assert [["threads-on-one-core", "threads-share-pu"], ["threads-share-pu"], []] == findings(file), done.stderr
    assert (0, "rankmap: placement: 3/3 ranks as planned, 2 with warnings") == (done.status, done.last_line)
    said = sorted(line.partition(": planned")[0] for line in done.stderr.splitlines()[:-1])
    assert said == [
        "rankmap: warning: rank 0 (threads-on-one-core)",
        "rankmap: warning: rank 0 (threads-share-pu)",
        "rankmap: warning: rank 1 (threads-share-pu)",
    ]


def test_a_watched_job_is_stopped_when_a_rank_leaves_its_place(rankmap: Rankmap) -> None:
    """Status 125, long before the job would have ended."""
    done = rankmap("launch", "-n", "1", "-c", "1", "--pmi", "none", "--watch", "1", *MISPLACED, "90", "late")
    assert (125, True) == (done.status, done.seconds < 60)
    assert "rank 0 (thread-outside-cpus): planned CPUs" in done.stderr
