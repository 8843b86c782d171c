"""The scripts of `rankmap submit` are run: by a real Slurm, and by a stub of PBS, on two hosts of the rig."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rankmap
from tests.e2e.hosts import hosts_up, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Done
    from tests.e2e.hosts import Hosts

pytestmark = pytest.mark.rig

PROGRAM = """
import json, os, sys
from mpi4py import MPI
rank, names = MPI.COMM_WORLD.rank, ("GREETING", "OTHER")
said = {"rank": rank, "host": os.uname().nodename, "directory": os.getcwd(), "words": sys.argv[1:]}
print(json.dumps(said | {name: os.environ.get(name) for name in names}), flush=True)
sys.exit(3 * rank)
"""
WORDS = ("it's", "$HOME", "a\nb", "")
ON_TWO = ("--nodes", "2", "--account", "m1", "--walltime", "0:05:00", "--job-name", "hello")
TCP = ("--transport", "tcp")
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def up() -> Iterator[Hosts]:
    """Make two hosts with Slurm; PBS's stub is there too."""
    with hosts_up(2) as hosts:
        hosts.slurm()
        yield hosts


@pytest.fixture
def hosts(up: Hosts) -> Iterator[Hosts]:
    """Return the hosts; a job leaves nothing on them."""
    yield up
    assert {} == up.left()


@pytest.fixture
def folder(up: Hosts, request: pytest.FixtureRequest) -> Path:
    """Return an empty directory that all hosts see, to submit from; a shell would take its name apart."""
    path = up.shared / f"{request.node.name} 'a'"
    path.mkdir()
    return path


@pytest.fixture
def set_up(hosts: Hosts, folder: Path) -> tuple[str, ...]:
    """Return the options of a job that has nothing of our environment; the checkout may be another than installed."""
    lines = f"export GREETING='hello  you' PYTHONPATH={Path(rankmap.__file__).parents[1]}\n"
    (folder / "set up.sh").write_text(lines)
    return "--setup", "set up.sh", "--path", str(Path(hosts.run("which", "rankmap").stdout).parent)


def submitted(hosts: Hosts, folder: Path, scheduler: str, *words: str, env: dict[str, str] | None = None) -> Done:
    """Submit from this directory on the first host."""
    command = ("env", "-C", str(folder), "rankmap", "submit", scheduler, *ON_TWO, "--submit", *words)
    return hosts.run(*command, env=env, limit_s=LIMIT_S)


def said_by_ranks(output: str) -> dict[int, dict[str, object]]:
    """Return what the program has printed, by rank."""
    said = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {one["rank"]: one for one in said}


def test_slurm_runs_it(hosts: Hosts, folder: Path, set_up: tuple[str, ...]) -> None:
    """Its id is printed, the ranks' output is in the job's file, its status is theirs; what is asked for is had.

    The job has nothing of our environment: what the set-up makes reaches the other host all the same.
    """
    defaults = {"SBATCH_TIMELIMIT": "1", "SBATCH_PARTITION": "none", "OTHER": "secret"}
    options = ("--queue", "batch", "--directive=--export=NONE", "--directive=--ntasks-per-node=2", *set_up)
    launch = ("--", "-n", "2", *TCP, "--", "python", "-c", PROGRAM, *WORDS)
    done = submitted(hosts, folder, "slurm", *options, *launch, env=defaults)
    assert 0 == done.status, done.stderr
    assert done.stdout.strip().isdigit()
    job = hosts.slurm_job(done.stdout.strip())
    output = (folder / f"hello-{done.stdout.strip()}.out").read_text()
    assert ("FAILED", "3:0", "00:05:00", "m1") == tuple(
        job[key] for key in ("JobState", "ExitCode", "TimeLimit", "Account")
    ), output
    ranks = said_by_ranks(output)
    assert {0: "node0", 1: "node1"} == {rank: one["host"] for rank, one in ranks.items()}, output
    expected = {"directory": str(folder), "words": list(WORDS), "GREETING": "hello  you", "OTHER": None}
    assert ranks[1] | expected == ranks[1]
    assert "placement: 2/2 ranks as planned" in output
    made = {"hello.sbatch", f"hello-{done.stdout.strip()}.out"}
    assert made == {path.name for path in folder.iterdir()} - {"set up.sh"}


def test_slurm_says_no(hosts: Hosts, folder: Path) -> None:
    """Its own words and status are passed on, and the script is there."""
    done = submitted(hosts, folder, "slurm", "--queue", "none", "--", "./app")
    assert (1, "") == (done.status, done.stdout)
    assert "sbatch: error: invalid partition specified: none" in done.stderr
    assert "rankmap: error: `sbatch hello.sbatch` ended with status 1" in done.stderr
    assert (folder / "hello.sbatch").is_file()


def test_pbs_runs_it(hosts: Hosts, folder: Path, set_up: tuple[str, ...]) -> None:
    """A clean environment, two slots on each host: the set-up makes it fit, and qsub waits for the job's status."""
    words = ("--queue", "debug", *set_up)
    directives = ("-l select=2:ncpus=2:mpiprocs=2", "-W block=true")
    launch = ("--", "-N", "1", *TCP, "--", "python", "-c", PROGRAM, *WORDS)
    pbs = {"PATH": f"/run/rig/pbs/bin:{os.environ['PATH']}", "OTHER": "secret"}
    done = submitted(hosts, folder, "pbs", *words, *(f"--directive={text}" for text in directives), *launch, env=pbs)
    output = (folder / "hello.o1").read_text()
    assert (3, "1.node0\n") == (done.status, done.stdout), done.stderr + output
    ranks = said_by_ranks(output)
    assert {0: "node0", 1: "node1"} == {rank: one["host"] for rank, one in ranks.items()}, output
    expected = {"directory": str(folder), "words": list(WORDS), "GREETING": "hello  you", "OTHER": None}
    assert ranks[1] | expected == ranks[1]
    assert "placement: 2/2 ranks as planned" in output


def test_a_part_of_a_pbs_job(hosts: Hosts) -> None:
    """One of its hosts: Dragon is started there alone, though PBS_NODEFILE has both, each twice."""
    launch = ("rankmap", "launch", *TCP, "--nodes", "1", "-N", "2", "--", "python", "tests/e2e/where.py")
    done = hosts.start(*launch, how="pbs-run").end(limit_s=LIMIT_S)
    assert 0 == done.status, done.stderr
    assert [("node0", [0, 1])] * 2 == [
        (one["host"], one["beside"]) for one in map(json.loads, done.stdout.splitlines())
    ]


def test_slurm_ends_it(hosts: Hosts, folder: Path) -> None:
    """The launch is the job's shell, so that the signal reaches it: it says so, and leaves nothing of its one host."""
    program = "import time; from mpi4py import MPI; print('here', flush=True); time.sleep(600)"
    launch = ("--", "--nodes", "1", "-N", "2", *TCP, "--", "python", "-c", program)
    done = submitted(hosts, folder, "slurm", "--queue", "batch", *launch)
    output = folder / f"hello-{done.stdout.strip()}.out"
    wait_for(lambda: output.exists() and output.read_text().count("here") == 2, output.read_text)
    assert 0 == hosts.run("scancel", done.stdout.strip()).status
    job = hosts.slurm_job(done.stdout.strip())
    assert "CANCELLED" == job["JobState"]
    assert "SIGTERM" in output.read_text()
