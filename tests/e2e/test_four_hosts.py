"""`rankmap launch` on four hosts that are not alike and whose clocks differ by hours: orders of ranks, and faults.

Each launch does several things at once: four hosts on two CPUs take 15 to 30 s to start.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.hosts import hosts_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import Done
    from tests.e2e.hosts import Hosts

pytestmark = pytest.mark.rig

WORDS = {
    "CPUS": "0-1 1 0-1 0",
    "NUMA": "- - 0/1 -",
    "GPUS": "nvidia:2 - nvidia:1 -",
    "CLOCKS": "0 -3600 7200 0",
}
WHERE = ("python", "tests/e2e/where.py")
LIMIT_S = 200.0


@pytest.fixture(scope="module")
def up() -> Iterator[Hosts]:
    """Make four hosts; the last one has another name too, by which the job has it."""
    with hosts_up(4, **WORDS) as hosts:
        hosts.rig("alias", "node3.site", "node3")
        yield hosts


@pytest.fixture
def four(up: Hosts) -> Iterator[Hosts]:
    """Return the four hosts; a test leaves nothing on them."""
    yield up
    assert {} == up.left()


def launched(hosts: Hosts, report: Path, *words: str, fanout: int = 64) -> tuple[Done, dict[str, Any]]:
    """Launch on all of them, so many agents to a process, and return how that went, and the report."""
    names = ("--hosts", "node[0-2],node3.site")
    # Ranks of four hosts share two cores here, which Open MPI does not know: those that wait are to let others run.
    variables = (f"RANKMAP_FANOUT={fanout}", "OMPI_MCA_mpi_yield_when_idle=1")
    command = ("env", *variables, "rankmap", "launch", "--report", str(report), "--timeout", "3:00")
    done = hosts.run(*command, *names, *words, limit_s=LIMIT_S)
    assert report.exists(), done.stderr
    return done, json.loads(report.read_text())


def check_with_mpi(done: Done, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what MPI says of the ranks, which has to be what was planned: host, CPUs, and who shares memory."""
    seen: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    planned = [rank["planned"] for rank in report["ranks"]]
    hosts = [rank["host"].partition(".")[0] for rank in planned]
    beside = [[rank for rank, host in enumerate(hosts) if host == own] for own in hosts]
    assert [*zip(hosts, beside, (rank["cpus"] for rank in planned), strict=True)] == [
        (rank["host"], rank["beside"], rank["cpus"]) for rank in seen
    ], done.stderr
    assert ("match", len(seen)) == (report["verdict"], seen[0]["size"])
    return seen


def test_ranks_in_turn_over_unequal_hosts_whose_clocks_differ(four: Hosts) -> None:
    """A host that is full is left out of the round; each rank has its host's own time, and nothing depends on it.

    The agents are a chain here: the last one speaks through all others.
    """
    words = ("-n", "6", "--rank-by", "node", "--bind-to", "core", "--watch", "1", *WHERE)
    done, report = launched(four, four.shared / "r1", *words, fanout=1)
    assert 0 == done.status, done.stderr
    seen = check_with_mpi(done, report)
    assert ["node0", "node1", "node2", "node3", "node0", "node2"] == [rank["host"] for rank in seen]
    hours = [round((rank["clock_s"] - seen[0]["clock_s"]) / 3600) for rank in seen]
    assert [0, -1, 2, 0, 0, 2] == hours
    assert "placement: 6/6 ranks as planned" in done.stderr


def test_planes_and_a_rankfile_in_one_job_and_a_rank_that_fails(four: Hosts) -> None:
    """Two ranks for each host in turn, then what the file says, backwards; the last host's rank exits with 3."""
    rankfile = four.shared / "rankfile"
    rankfile.write_text("rank 0=node3.site slot=0\nrank 1=node2 slot=1\n")
    first = ("-n", "4", "--map-by", "plane:2", "--bind-to", "core", *WHERE)
    second = ("-n", "2", "--map-by", f"rankfile:{rankfile}", *WHERE, "4=3")
    done, report = launched(four, four.shared / "r2", *first, ":", *second, fanout=2)
    assert 3 == done.status, done.stderr
    seen = check_with_mpi(done, report)
    assert ["node0", "node0", "node1", "node2", "node3", "node2"] == [rank["host"] for rank in seen]
    assert "rank 4 on node3.site exited with status 3" in done.stderr


def test_a_rank_that_leaves_its_place_on_another_host_stops_the_job(four: Hosts) -> None:
    """Ranks in a list's order, each with a GPU; the one that strays is named with its host and with what is wrong."""
    order = four.shared / "order"
    order.write_text("node2\nnode0\nnode0\n")
    words = ("-n", "3", "--map-by", f"seq:{order}", "-c", "1", "--gpus-per-rank", "1", "--pmi", "none", "--watch", "1")
    misplaced = ("--", "python", "tests/e2e/faults/misplaced.py", "100", "cpu")
    done, report = launched(four, four.shared / "r3", *words, *misplaced)
    assert 125 == done.status, done.stderr
    ranks = report["ranks"]
    assert [("node2", ["0"]), ("node0", ["0"]), ("node0", ["1"])] == [
        (rank["observed"]["host"], rank["observed"]["gpus"]) for rank in ranks
    ]
    assert [["thread-outside-cpus"], [], []] == [sorted({one["slug"] for one in rank["findings"]}) for rank in ranks]
    assert "node2: rank 0 (thread-outside-cpus): planned CPUs 0, found " in done.stderr
