"""`rankmap launch` on several hosts: where the ranks are, how jobs end, what is said of hosts that are of no use.

The hosts share this machine's CPUs (tests/rig/fakehosts.sh); everything else about them is real.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import CHECKOUT
from tests.e2e.hosts import hosts_up, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Done
    from tests.e2e.hosts import Hosts, Started

pytestmark = pytest.mark.rig

LAUNCH = ("rankmap", "launch", "--transport", "tcp")
ON_BOTH = (*LAUNCH, "--hosts", "node0,node1")
WHERE = ("--", "python", "tests/e2e/where.py")
LIMIT_S = 240.0
GONE_S = 60.0


@pytest.fixture(scope="module")
def pair() -> Iterator[Hosts]:
    """Make two hosts: the first has both of this machine's CPUs, the second one of them."""
    with hosts_up(2, CPUS="0-1 1") as hosts:
        yield hosts


@pytest.fixture
def two(pair: Hosts) -> Iterator[Hosts]:
    """Return the two hosts; a test leaves nothing on them."""
    yield pair
    assert {} == pair.left()


@pytest.fixture
def frail() -> Iterator[Hosts]:
    """Return two hosts that a test may break; it leaves nothing on one that lives."""
    with hosts_up(2) as hosts:
        yield hosts
        assert {} == hosts.left()


def launched(hosts: Hosts, *words: str) -> Done:
    """Launch on both hosts."""
    return hosts.run(*ON_BOTH, *words, limit_s=LIMIT_S)


def seen(done: Done) -> list[dict[str, Any]]:
    """Return what where.py has printed, in rank order."""
    return [json.loads(line) for line in done.stdout.splitlines()]


# -- where the ranks are -------------------------------------------------------------------------------------------


def test_ranks_are_where_the_plan_says_as_mpi_itself_sees_it(two: Hosts) -> None:
    """Hosts of unequal size: ranks in turn over them, MPI finds who is beside whom; the report says the same."""
    report = two.shared / "report.json"
    words = ("-n", "3", "--rank-by", "node", "--bind-to", "core", "--report", str(report), "--report-bindings")
    done = launched(two, *words, *WHERE)
    assert 0 == done.status, done.stderr
    assert [("node0", [0, 2], [0]), ("node1", [1], [1]), ("node0", [0, 2], [1])] == [
        (rank["host"], rank["beside"], rank["cpus"]) for rank in seen(done)
    ]
    written = json.loads(report.read_text())
    assert "match" == written["verdict"]
    assert ["node0", "node1", "node0"] == [rank["observed"]["host"] for rank in written["ranks"]]
    assert "placement: 3/3 ranks as planned" in done.stderr
    assert "node node1: 1 usable core, its peer has 2" in done.stderr


def test_hosts_in_the_order_that_they_are_named(two: Hosts) -> None:
    """The first host named has rank 0, whichever this is; output is labelled; what a rank reads arrives."""
    program = "import os, sys; print(os.uname().nodename, len(sys.stdin.read()))"
    words = ("--hosts", "node1,node0", "-n", "3", "--label", "--stdin", "2", "--pmi", "none")
    done = two.run(*LAUNCH, *words, "--", "python", "-c", program, stdin="x" * 3_000_000, limit_s=LIMIT_S)
    assert 0 == done.status, done.stderr
    assert ["[0] node1 0", "[1] node0 0", "[2] node0 3000000"] == sorted(done.stdout.splitlines())


def test_what_ranks_write_elsewhere_arrives_whole_and_in_order(two: Hosts) -> None:
    """Half a million lines of a rank on another host; its environment, directory and standard error arrive too."""
    program = (
        "import os, sys\n"
        "for i in range(500_000): print(i)\n"
        'sys.stderr.write(f\'{os.environ["GREETING"]} {os.getcwd()} {os.environ["HOSTNAME"]}\\n\')'
    )
    words = ("--map-by", "manual:1", "--hosts", "node1", "-n", "1", "--pmi", "none", "--cwd", "/")
    done = two.run(*LAUNCH, *words, "--", "python", "-c", program, env={"GREETING": "hello"}, limit_s=LIMIT_S)
    assert 0 == done.status, done.stderr
    assert [f"{i}" for i in range(500_000)] == done.stdout.splitlines()
    assert "hello / node1" in done.stderr.splitlines()


def test_a_spare_takes_the_place_of_a_host_of_no_use(two: Hosts) -> None:
    """Nohost resolves to nothing; the job of one host goes on without it. The copied script is what runs."""
    words = ("--hosts", "nohost,node1", "--nodes", "1", "--spares", "1", "-n", "1", "--preload", "tests/e2e/where.py")
    done = two.run(*LAUNCH, *words, *WHERE, limit_s=LIMIT_S)
    assert 0 == done.status, done.stderr
    assert ["node1"] == [rank["host"] for rank in seen(done)]
    assert "not used: nohost: " in done.stderr


def test_slurm(two: Hosts) -> None:
    """In a batch job of Slurm rankmap finds the hosts by itself, and the job gets the status of the application."""
    two.slurm()
    script = two.shared / "job.sh"
    output = two.shared / "output"
    exits = "import sys; from mpi4py import MPI; sys.exit(3 * MPI.COMM_WORLD.rank)"
    script.write_text(f"#!/bin/sh\n{' '.join(LAUNCH)} -n 2 -- python -c '{exits}'\n")
    job = two.run("sbatch", "--parsable", "--nodes=2", f"--output={output}", str(script)).stdout.strip()
    ended = two.slurm_job(job, limit_s=LIMIT_S)
    said = output.read_text()
    assert "3:0" == ended["ExitCode"], said
    assert "rank 1 on node1 exited with status 3" in said
    assert "placement: 2/2 ranks as planned" in said


# -- how jobs end --------------------------------------------------------------------------------------------------


def test_a_rank_that_is_killed_on_another_host_ends_the_job(two: Hosts) -> None:
    """The others wait for it in MPI; the status and the host are those of the one that failed."""
    program = (
        "import os, signal; from mpi4py import MPI\n"
        "if MPI.COMM_WORLD.rank == 2: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "MPI.COMM_WORLD.barrier()"
    )
    done = launched(two, "-n", "3", "--", "python", "-c", program)
    assert 128 + signal.SIGSEGV == done.status, done.stderr
    assert "rank 2 on node1 (pid " in done.stderr
    assert "was killed by SIGSEGV" in done.stderr


def running_job(hosts: Hosts, *words: str) -> Started:
    """Start a job of three ranks that sleep, and return when all of them do."""
    marks = hosts.shared / "marks"
    marks.mkdir()
    program = f"import os, time; open(f'{marks}/' + os.environ['RANKMAP_RANK'], 'w'); time.sleep(1000)"
    process = hosts.start(*ON_BOTH, "-n", "3", "--pmi", "none", *words, "--", "python", "-c", program)
    wait_for(lambda: process.has_ended() or len(list(marks.iterdir())) == 3, lambda: process.stderr, limit_s=LIMIT_S)
    assert not process.has_ended(), process.stderr
    for mark in marks.iterdir():
        mark.unlink()
    marks.rmdir()
    return process


def test_ctrl_c_ends_the_job_on_all_hosts(two: Hosts) -> None:
    """As on one host, with status 130."""
    process = running_job(two)
    os.kill(process.pid, signal.SIGINT)
    done = process.end(limit_s=GONE_S)
    assert 130 == done.status, done.stderr


def test_when_rankmap_is_killed_the_agents_clean_their_hosts(two: Hosts) -> None:
    """SIGKILL leaves it no time to say anything; nothing of the job survives all the same."""
    process = running_job(two)
    os.kill(process.pid, signal.SIGKILL)
    process.end(limit_s=GONE_S)
    wait_for(lambda: not two.left(), lambda: f"{two.left()}", limit_s=GONE_S)


@pytest.mark.parametrize("host", [0, 1])
def test_a_host_whose_agent_was_killed_is_cleaned_by_another(two: Hosts, host: int) -> None:
    """The kernel may have run out of memory there: the ranks, Dragon's services and the directories go all the same."""
    process = running_job(two)
    agents = {pid: line.split() for pid, line in two.running(host).items() if line.endswith("-u -m rankmap.agent")}
    (agent,) = (pid for pid, words in agents.items() if "python" in words[0])  # the others have started one by ssh
    os.kill(agent, signal.SIGKILL)
    done = process.end(limit_s=GONE_S)
    assert 123 == done.status, done.stderr
    assert f"rankmap: rankmap's agent on node{host} was killed\n" in done.stderr
    assert "nothing of the job is left there" in done.stderr


def test_a_rank_that_dragon_starts_on_another_host_never_runs(two: Hosts) -> None:
    """The head asks for rank 0's place for all (faults/sitecustomize.py): nobody there knows a rank of that number."""
    path = f"{CHECKOUT / 'tests' / 'e2e' / 'faults'}:{CHECKOUT}"
    variables = {"RANKMAP_TEST_MISPLACE": "1", "PYTHONPATH": path}
    words = ("-n", "3", "--pmi", "none", "--", "echo", "ran")
    done = two.run(*ON_BOTH, *words, env=variables, limit_s=LIMIT_S)
    assert (125, "") == (done.status, done.stdout), done.stderr
    assert "rank 2 was started on node0, where it is not planned (host-differs)" in done.stderr


# -- hosts of no use -----------------------------------------------------------------------------------------------


def test_an_application_that_is_not_on_every_host(two: Hosts) -> None:
    """It is looked for on each of them before anything starts; the message says where it is not."""
    folder = two.shared / "programs"
    folder.mkdir()
    (folder / "app").write_text("#!/bin/sh\n")
    (folder / "app").chmod(0o755)
    two.rig("hide", "1", str(folder))
    done = launched(two, "-n", "3", "--pmi", "none", "--", str(folder / "app"))
    assert (127, "") == (done.status, done.stdout), done.stderr
    assert f"rankmap: node1: {folder / 'app'}: No such file or directory" in done.stderr


def test_a_name_that_means_another_host(two: Hosts) -> None:
    """node0 is there twice, once by the name of another host: that is said before anything starts."""
    two.rig("alias", "other", "node0")
    done = two.run(*LAUNCH, "--hosts", "node0,other", "-n", "2", *WHERE, limit_s=LIMIT_S)
    assert 120 == done.status, done.stderr
    assert "node0 and other are the same host: both call themselves node0" in done.stderr or (
        "other and node0 are the same host: both call themselves node0" in done.stderr
    )


def test_hosts_that_cannot_be_reached_are_named(two: Hosts) -> None:
    """Nobody has the address of one, no name server knows the other: ssh says so, and both are named."""
    two.rig("alias", "gone", "nobody")
    done = two.run(*LAUNCH, "--hosts", "node0,gone,nohost", "-n", "2", *WHERE, limit_s=LIMIT_S)
    assert 123 == done.status, done.stderr
    assert "nohost: `ssh " in done.stderr
    assert "Could not resolve hostname nohost" in done.stderr


def test_more_nodes_than_there_are(two: Hosts) -> None:
    """Refused before any host is asked."""
    done = launched(two, "--nodes", "2", "--spares", "1", *WHERE)
    assert 120 == done.status, done.stderr
    assert "--nodes 2 --spares 1: there are 2: node[0-1] (--hosts)" in done.stderr


def test_a_host_that_dies_ends_the_job(frail: Hosts) -> None:
    """Its network goes first, so that it says nothing: found out in 20 s, called for 10, named; node0 is left clean."""
    process = running_job(frail)
    frail.rig("cut", "1")
    frail.rig("kill", "1")
    done = process.end(limit_s=2 * GONE_S)
    assert 123 == done.status, done.stderr
    assert "rankmap: node1 cannot be reached any more" in done.stderr


def test_hosts_that_refuse_and_that_are_full(frail: Hosts) -> None:
    """A full /tmp, then no sshd: each is said of the host that it is about, before anything starts."""
    frail.rig("fill", "1", "/tmp")  # noqa: S108 - of a host of the rig
    done = launched(frail, "-n", "3", *WHERE)
    assert done.status in {122, 2}, done.stderr
    assert "rankmap: node1: " in done.stderr
    assert "No space left on device" in done.stderr
    frail.rig("refuse", "1")
    done = launched(frail, "-n", "3", *WHERE)
    assert 123 == done.status, done.stderr
    assert "Connection refused" in done.stderr
