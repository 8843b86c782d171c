"""The fake hosts of tests/rig themselves: what the tests of many hosts take for granted of them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.hosts import Hosts, hosts_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.rig

LIMIT_S = 20.0
FACTS = """
hostname; nproc; cat /proc/sys/kernel/random/boot_id /sys/devices/system/node/node*/cpulist; date +%s
"""
# two scripts: sbatch reads #PBS lines too
SLURM_JOB = "#!/bin/bash\n#SBATCH -N2 --ntasks-per-node=1\n"
PBS_JOB = "#!/bin/bash\n#PBS -l select=2:mpiprocs=2\n"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Two unequal hosts, with Slurm; nothing is broken on them."""
    words = {"CPUS": "0-1 0", "NUMA": "0/1 0,1", "GPUS": "nvidia:3 amd:2", "CLOCKS": "0 -3600", "SHM_MB": "- 64"}
    with hosts_up(2, **words) as up:
        up.slurm()
        yield up


@pytest.fixture
def breakable() -> Iterator[Hosts]:
    """Two hosts of a test's own, to break."""
    with hosts_up(2) as up:
        yield up


def until(true: Callable[[], object]) -> bool:
    """Wait until something is true, and return whether it has become so."""
    deadline_s = time.monotonic() + LIMIT_S
    while not true() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return bool(true())


def sleeps(hosts: Hosts, host: int) -> bool:
    """Return whether a host has the process that tests start (srun makes its path absolute)."""
    return any(line in {"sleep 600", "/usr/bin/sleep 600"} for line in hosts.running(host).values())


def test_hosts_differ_as_asked(hosts: Hosts) -> None:
    """Name, CPUs, boot id, NUMA domains, clock: each host has its own, for what ssh starts there too."""
    assert "node0" == hosts.run("hostname").stdout.strip()
    name, n_cpus, boot_id, *numa, clock = hosts.run("bash", "-c", FACTS).stdout.split()
    assert ("node0", "2", ["0", "1"]) == (name, n_cpus, numa)
    far_name, far_cpus, far_boot_id, *far_numa, far_clock = hosts.run("ssh", "node1", FACTS).stdout.split()
    assert ("node1", "1", ["0,1"]) == (far_name, far_cpus, far_numa)
    assert boot_id[19:] < far_boot_id[19:]  # what Dragon's choice of the primary node depends on
    assert int(clock) - 3600 <= int(far_clock) < int(clock) - 3600 + LIMIT_S


def test_gpus_are_those_of_the_host(hosts: Hosts) -> None:
    """The stub library of a host says how many devices this host has."""
    count = "import ctypes; n = ctypes.c_int(); ctypes.CDLL('{}').{}GetDeviceCount(ctypes.byref(n)); print(n.value)"
    assert "3\n" == hosts.run("python", "-c", count.format("libcudart.so", "cuda")).stdout
    assert "2\n" == hosts.run("python", "-c", count.format("libamdhip64.so", "hip"), host=1).stdout


def test_the_status_and_the_streams_are_the_commands(hosts: Hosts) -> None:
    """Also where a signal ends it; and what was started can be sent one."""
    done = hosts.run("bash", "-c", "cat; pwd >&2; exit 3", stdin="hello", env={"A": "b"})
    assert (3, "hello", f"{Path.cwd()}\n") == (done.status, done.stdout, done.stderr)
    started = hosts.start("sleep", "600", host=1)
    assert {started.pid: "sleep 600"} == hosts.running(1)
    assert {} == hosts.running(0)
    os.kill(started.pid, signal.SIGTERM)
    assert -signal.SIGTERM == started.end().status


def test_what_is_left_on_a_host_is_seen(hosts: Hosts) -> None:
    """Processes that outlive their caller, and files in the host's own directories."""
    hosts.run("ssh", "node1", "touch /tmp/left /dev/shm/left; setsid sleep 600 >/dev/null 2>&1 </dev/null &")
    assert {"/tmp/left", "/dev/shm/left"} == hosts.files(1)  # noqa: S108 - the host's own
    assert ["sleep 600"] == list(hosts.running(1).values())
    assert ["node1"] == list(hosts.left())
    hosts.run("bash", "-c", "rm /tmp/left /dev/shm/left; kill $(pidof sleep | tr ' ' '\\n' | grep -vx 1)", host=1)
    assert until(lambda: not hosts.left()), hosts.left()


def test_directories_are_shared_or_the_hosts_own(hosts: Hosts) -> None:
    """The checkout and ``shared`` are the same everywhere; /tmp and a /dev/shm of the size asked for are not."""
    (hosts.shared / "seen").touch()
    assert 0 == hosts.run("ssh", "node1", f"ls {shlex.quote(str(hosts.shared))}/seen {__file__}").status
    assert "64M" == hosts.run("df", "-h", "--output=size", "/dev/shm", host=1).stdout.split()[-1]  # noqa: S108


def test_mpi_sees_two_hosts(hosts: Hosts) -> None:
    """Open MPI's own launcher over ssh: two ranks a host, beside each other by shared memory."""
    command = ("mpirun", "--host", "node0:2,node1:2", "-n", "4", "--map-by", "node", "--bind-to", "none")
    options = ("--mca", "btl", "self,tcp,sm", "-x", "PATH", "python", "tests/e2e/where.py")
    prefix = hosts.run("python", "-c", "import sys; print(sys.prefix)").stdout.strip()
    done = hosts.run(command[0], "--allow-run-as-root", "--prefix", prefix, *command[1:], *options)
    ranks = [json.loads(line) for line in done.stdout.splitlines()]
    assert [("node0", [0, 2]), ("node1", [1, 3])] * 2 == [(rank["host"], rank["beside"]) for rank in ranks], done
    assert [[0, 1], [0], [0, 1], [0]] == [rank["cpus"] for rank in ranks]


def test_slurm_runs_jobs(hosts: Hosts) -> None:
    """srun, sbatch with its output and status, squeue, scancel."""
    assert ["0: node0", "1: node1"] == sorted(hosts.run("srun", "-N2", "-l", "hostname").stdout.splitlines())
    script = hosts.shared / "job.sh"
    script.write_text(f"{SLURM_JOB}echo $SLURM_JOB_NODELIST; srun hostname; exit 4\n")
    job = hosts.run("sbatch", "--parsable", "-o", f"{hosts.shared}/out", str(script)).stdout.strip()
    assert "4:0" == hosts.slurm_job(job)["ExitCode"]
    assert ["node0", "node1", "node[0-1]"] == sorted((hosts.shared / "out").read_text().split())
    job = hosts.run("sbatch", "--parsable", "-N2", "-o", "/dev/null", "--wrap", "srun sleep 600").stdout.strip()
    assert until(lambda: sleeps(hosts, 1))
    assert f"{job}\n" == hosts.run("squeue", "-h", "-o", "%i").stdout
    hosts.run("scancel", job)
    assert until(lambda: not hosts.left()), hosts.left()


def test_pbs_runs_jobs(hosts: Hosts) -> None:
    """Qsub of the stub starts a script as PBS does; mpiexec starts its command on the job's hosts."""
    script = hosts.shared / "job.sh"
    script.write_text(f"{PBS_JOB}cat $PBS_NODEFILE; mpiexec --np 2 --ppn 1 --cpu-bind none -l hostname; exit 4\n")
    output = hosts.shared / "pbs"
    done = hosts.run("/run/rig/pbs/bin/qsub", "-W", "block=true", "-j", "oe", "-o", str(output), str(script))
    assert (4, "1.node0\n") == (done.status, done.stdout), done.stderr
    nodes, labelled = output.read_text().splitlines()[:4], output.read_text().splitlines()[4:]
    assert ["node0", "node0", "node1", "node1"] == nodes
    assert ["node0 0: node0", "node1 1: node1"] == sorted(labelled)


def test_mpiexec_hands_on_and_ends(hosts: Hosts) -> None:
    """The caller's variables arrive; the worst status is mpiexec's; whatever ends mpiexec ends its ranks."""
    command = 'echo "$A $PWD"; exit $PALS_RANKID'
    mpiexec = ("mpiexec", "-n", "2", "-ppn", "1")
    started = hosts.start(*mpiexec, "sh", "-c", command, env={"A": "'two  words'"}, how="pbs-run")
    done = started.end()
    assert (1, f"'two  words' {Path.cwd()}\n" * 2) == (done.status, done.stdout), done.stderr
    for ending in (signal.SIGTERM, signal.SIGKILL):
        started = hosts.start(*mpiexec, "sleep", "600", how="pbs-run")
        assert until(lambda: sleeps(hosts, 1))
        os.kill(started.pid, ending)
        started.end()
        assert until(lambda: not hosts.left()), hosts.left()


def test_a_dead_host_is_dead(breakable: Hosts) -> None:
    """Its processes are gone at once; cut off before, its peers hear nothing; the others live on."""
    started = breakable.start("ssh", "-oLogLevel=INFO", "-oServerAliveInterval=1", "node1", "echo up; sleep 600")
    assert until(lambda: started.stdout)
    breakable.rig("cut", "1")
    breakable.rig("kill", "1")
    assert {} == breakable.running(1)
    done = started.end()
    assert 255 == done.status
    assert "not responding" in done.stderr  # no end of the connection was heard of
    assert {} == breakable.left()


def test_names_and_ssh_go_wrong(breakable: Hosts) -> None:
    """A name that is another host's, or nobody's; a host whose sshd has ended."""
    breakable.rig("alias", "node1", "node0")
    assert "node0\n" == breakable.run("ssh", "node1", "hostname").stdout
    breakable.rig("alias", "node1", "nobody")
    assert "No route to host" in breakable.run("ssh", "node1", "hostname").stderr
    breakable.rig("refuse", "0")
    done = breakable.run("ssh", "node0", "hostname")
    assert (255, True) == (done.status, "Connection refused" in done.stderr)


def test_directories_go_wrong(breakable: Hosts) -> None:
    """A full file system, and a checkout that one host does not see."""
    breakable.rig("fill", "1", "/tmp")  # noqa: S108 - the host's own
    done = breakable.run("ssh", "node1", "seq 10000 >/tmp/x; rm /tmp/x; seq 10000 >/dev/shm/x; rm /dev/shm/x")
    assert 1 == done.stderr.count("No space left on device")
    breakable.rig("hide", "1", str(Path.cwd()))
    assert "0\n" == breakable.run("ssh", "node1", f"ls -A {shlex.quote(str(Path.cwd()))} | wc -l").stdout
    assert {} == breakable.left()


def test_two_rigs_at_once_and_nothing_after(hosts: Hosts) -> None:
    """A second rig has namespaces of its own; after its end nothing is left of it."""
    assert {} == hosts.left()
    before = set(Path("/run/netns").iterdir())
    with hosts_up(1) as other:
        assert "node0\n" == other.run("hostname").stdout
        assert 2 == len(set(Path("/run/netns").iterdir()) - before)
    assert before == set(Path("/run/netns").iterdir())
    assert {} == hosts.left()
