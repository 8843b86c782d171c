"""`rankmap launch` on the emulated machine of tests/rig: 16 CPUs, 4 NUMA domains, second threads numbered last.

One boot, one launch, several checks. The guest works in the checkout itself (PYTHONPATH), its files go to a folder
that is removed again.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import rig_is_missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.rig

CHECKOUT = Path(__file__).parents[2]
NUMAVM = str(CHECKOUT / "tests" / "rig" / "numavm.sh")
VM_LIMIT_S = 900
START_LIMIT_S = 400  # the guest is emulated: Dragon takes a minute to start there, more on a slow machine
N_RANKS = 8
DOMAIN_OF_CPU = {cpu: cpu % 8 // 2 for cpu in range(16)}  # core i is CPUs i and i+8, two cores a domain

GUEST_SCRIPT = """
export PYTHONPATH=$PWD
ls -A . /dev/shm /tmp >{out}/before
python -m rankmap plan -n 4 --map-by numa --bind-to core --format json -o {out}/plan.json : \
    -n 4 --map-by core --rank-by fill 2>{out}/plan.err
python -m rankmap launch --plan {out}/plan.json --start-timeout {start_s} --report $PWD/{out}/report.json -- \
    python mpi_examples/hello_affinity.py --pages : -- python mpi_examples/hello_affinity.py --pages \
    >{out}/stdout 2>{out}/stderr
echo $? >{out}/status
tests/rig/disguise.sh
python -m rankmap topo --format json -o {out}/topo.json
python -m rankmap launch --map-by manual:6,14:2,10:4,12:0,8 --gpus-per-rank 1 --mem-bind local --pmi none \
    --start-timeout {start_s} --verify warn --watch 10 --report $PWD/{out}/far.json -- \
    python tests/e2e/faults/misplaced.py 45 far-policy far-pages none none >{out}/far.out 2>{out}/far.err
echo $? >{out}/far.status
python tests/e2e/memory_policies.py local bind:1,3 preferred:2 preferred:0-1 interleave:0-3 >{out}/policies
echo +cpuset >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/fence
echo 0-1 >/sys/fs/cgroup/fence/cpuset.mems
(
  echo $BASHPID >/sys/fs/cgroup/fence/cgroup.procs
  python tests/e2e/memory_policies.py bind:1-2 preferred:1-3 >{out}/fenced
  python -m rankmap topo --format json -o {out}/fenced.json
  python -m rankmap plan -n 4 --mem-bind bind:1-2 2>{out}/fenced.err
)
ls -A . /dev/shm /tmp >{out}/after
pgrep -f 'dragon|rankmap' >{out}/running
true
"""

LINE = re.compile(
    r"rank +(?P<rank>\d+) of (?P<size>\d+)  host (?P<host>\S+) +pid (?P<pid>\d+) +cpus (?P<cpus>\S+)"
    r" +numa (?P<numa>\S+) +no GPU variable(?: +pages (?P<pages>.+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What one rank printed of itself; ``pages_mib`` is by NUMA domain."""

    rank: int
    size: int
    pid: int
    cpus: frozenset[int]
    pages_mib: dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What one launch in the guest left: its status, its output, its report, and listings before and after."""

    status: str
    stdout: str
    stderr: str
    report: dict[str, Any]
    far_status: str
    far_stderr: str
    far_report: dict[str, Any]
    topology: dict[str, Any]
    policies: list[list[str]]
    fenced: list[list[str]]
    fenced_topology: dict[str, Any]
    fenced_stderr: str
    before: str
    after: str
    running: str

    def hellos(self) -> list[Hello]:
        """Return what the ranks printed, in rank order."""
        found = [LINE.fullmatch(line) for line in self.stdout.splitlines()]
        assert all(found), f"not a line of hello_affinity.py in:\n{self.stdout}{self.stderr}"
        return sorted((parse_hello(match) for match in found if match), key=lambda hello: hello.rank)


def parse_hello(match: re.Match[str]) -> Hello:
    """Return the rank that a line of hello_affinity.py describes."""
    pages = re.findall(r"([\d.]+) MiB on (\d+)", match["pages"] or "")
    bounds = [part.split("-") for part in match["cpus"].split(",")]
    return Hello(
        rank=int(match["rank"]),
        size=int(match["size"]),
        pid=int(match["pid"]),
        cpus=frozenset(cpu for ends in bounds for cpu in range(int(ends[0]), int(ends[-1]) + 1)),
        pages_mib={int(domain): float(mib) for mib, domain in pages},
    )


def require_rig() -> None:
    """Skip the test with the reason, or fail with it under RANKMAP_REQUIRE_RIG=1, where the rig cannot run."""
    if os.geteuid() != 0:
        rig_is_missing("tests/rig/numavm.sh needs root to build its guest")
    if os.environ.get("RANKMAP_REQUIRE_RIG") != "1" and shutil.which("qemu-system-x86_64") is None:
        rig_is_missing("no qemu-system-x86_64: `make e2e` installs it")


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """Boot the machine once and launch 8 ranks of hello_affinity.py in it, as a saved plan of two programs."""
    require_rig()
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([NUMAVM, "build"], env=environment, check=True)
    folder = Path(tempfile.mkdtemp(prefix=".e2e-", dir=CHECKOUT))
    try:
        script = GUEST_SCRIPT.format(out=shlex.quote(folder.name), start_s=START_LIMIT_S)
        command = [
            NUMAVM,
            "run",
            "--smt-far",
            "--gpus",
            "4",
            "--share",
            f"{CHECKOUT}",
            "--timeout",
            f"{VM_LIMIT_S}",
            "--",
            script,
        ]
        guest = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        texts = {file.name: file.read_text() for file in folder.iterdir()}
        said = f"guest said: {guest.stdout}{guest.stderr}\nlaunch said: {texts.get('stderr', '')}"
        assert guest.returncode == 0, said
        assert "report.json" in texts, said
        yield Launch(
            status=texts["status"].strip(),
            stdout=texts["stdout"],
            stderr=texts["plan.err"] + texts["stderr"],
            report=json.loads(texts["report.json"]),
            far_status=texts["far.status"].strip(),
            far_stderr=texts["far.out"] + texts["far.err"],
            far_report=json.loads(texts.get("far.json", "{}")),
            topology=json.loads(texts.get("topo.json", "{}")),
            policies=[json.loads(line) for line in texts["policies"].splitlines()],
            fenced=[json.loads(line) for line in texts["fenced"].splitlines()],
            fenced_topology=json.loads(texts.get("fenced.json", "{}")),
            fenced_stderr=texts["fenced.err"],
            before=texts["before"],
            after=texts["after"],
            running=texts["running"],
        )
    finally:
        shutil.rmtree(folder)


def test_the_job_succeeds(launch: Launch) -> None:
    """The launch ends with status 0 and says that every rank is as planned."""
    assert launch.status == "0", launch.stderr
    assert "placement: 8/8 ranks as planned" in launch.stderr


def test_every_rank_is_one_of_eight(launch: Launch) -> None:
    """The ranks are one job of 8, numbered 0 to 7, not 8 jobs of one."""
    assert [(rank, N_RANKS) for rank in range(N_RANKS)] == [(hello.rank, hello.size) for hello in launch.hellos()]


def test_ranks_spread_over_domains(launch: Launch) -> None:
    """Each rank's CPUs are inside one NUMA domain, and each domain has two ranks."""
    domains = [{DOMAIN_OF_CPU[cpu] for cpu in hello.cpus} for hello in launch.hellos()]
    assert all(len(domain) == 1 for domain in domains), domains
    n_ranks_of_domain = Counter(next(iter(domain)) for domain in domains)
    assert dict.fromkeys(range(4), 2) == n_ranks_of_domain


def test_each_rank_has_a_whole_core(launch: Launch) -> None:
    """Each rank has both PUs of a core of its own."""
    assert {frozenset({core, core + 8}) for core in range(8)} == {hello.cpus for hello in launch.hellos()}


def test_pages_are_local(launch: Launch) -> None:
    """All of the 32 MiB that a rank touched are on the NUMA domain of its CPUs."""
    for hello in launch.hellos():
        assert {DOMAIN_OF_CPU[min(hello.cpus)]: 32} == hello.pages_mib, hello


def test_report_matches(launch: Launch) -> None:
    """The report's verdict is ``match``: what was observed is what was planned, for every rank."""
    assert (launch.report["schema"], launch.report["verdict"]) == ("rankmap.report/1", "match")
    assert list(range(N_RANKS)) == [rank["rank"] for rank in launch.report["ranks"]]
    for rank in launch.report["ranks"]:
        fields = ("cpus", "numa", "gpus", "mem")
        assert [rank["planned"][field] for field in fields] == [rank["observed"][field] for field in fields], rank


def test_report_agrees_with_the_ranks(launch: Launch) -> None:
    """The report's process ids and CPUs are those that the ranks themselves print."""
    seen = [(rank["observed"]["pid"], frozenset(rank["observed"]["cpus"])) for rank in launch.report["ranks"]]
    assert [(hello.pid, hello.cpus) for hello in launch.hellos()] == seen


def test_a_saved_plan_of_two_programs_is_launched_as_planned(launch: Launch) -> None:
    """One MPI job of 8: a rank on each NUMA domain, then four on the cores that these have left, node's order."""
    cores = [0, 2, 4, 6, 1, 3, 5, 7]
    assert [frozenset({core, core + 8}) for core in cores] == [hello.cpus for hello in launch.hellos()]


def test_memory_that_is_far_from_its_rank_is_found(launch: Launch) -> None:
    """Another policy than planned is an error; pages that are far all the same are a warning; the rest is local."""
    assert "0" == launch.far_status, launch.far_stderr
    ranks = launch.far_report["ranks"]
    found = [[(finding["slug"], finding["severity"]) for finding in rank["findings"]] for rank in ranks]
    assert [[("memory-differs", "error")], [("pages-remote", "warning")], [], []] == found, launch.far_stderr
    assert "3/4 ranks as planned, 1 not as planned, 1 with warnings" in launch.far_stderr
    assert 1 == launch.far_stderr.count("warning: rank 1 (pages-remote): planned memory in NUMA domains 1, found ")
    for rank in ranks:
        (domain,) = rank["planned"]["numa"]
        pages = {int(number): size for number, size in rank["observed"]["pages"].items()}
        far_bytes = sum(pages.values()) - pages.get(domain, 0)
        assert (rank["rank"] < 2) == (far_bytes >= 64 << 20), pages
        assert rank["observed"]["threads"] == len(rank["observed"]["thread_cpus"]) == 1


def test_gpus_are_found_on_their_domains(launch: Launch) -> None:
    """Four NVIDIA GPUs, one on each NUMA domain: what the kernel says of where they are, hwloc hands on."""
    (shape,) = launch.topology["shapes"]
    assert [("NVIDIA", [domain]) for domain in range(4)] == [(gpu["vendor"], gpu["numa"]) for gpu in shape["gpus"]]


def test_each_rank_has_the_gpu_of_its_own_domain(launch: Launch) -> None:
    """Whatever the order of the ranks; the variables that they got say so too."""
    domains = [3, 1, 2, 0]
    for rank, domain in zip(launch.far_report["ranks"], domains, strict=True):
        assert ([domain], [f"{domain}"]) == (rank["planned"]["numa"], rank["planned"]["gpus"])
        assert [f"{domain}"] == rank["observed"]["gpus"]


def test_every_memory_policy_is_read_back_and_seen_as_it_was_set(launch: Launch) -> None:
    """By get_mempolicy(2) and in /proc/PID/numa_maps; several preferred domains are all kept."""
    policies = ["local", "bind:1,3", "preferred:2", "preferred:0-1", "interleave:0-3"]
    assert [[policy, policy, policy] for policy in policies] == launch.policies


def test_memory_that_a_cgroup_keeps_from_the_job_is_known(launch: Launch) -> None:
    """The kernel leaves it out of a policy without a word; rankmap refuses such a plan."""
    assert [["bind:1-2", "bind:1", "bind:1"], ["preferred:1-3", "preferred:1", "preferred:1"]] == launch.fenced
    (shape,) = launch.fenced_topology["shapes"]
    assert [True, True, False, False] == [domain["allowed"] for domain in shape["numa_domains"]]
    assert "--mem-bind bind:1-2: NUMA domain 2 of vm1 is not allowed (cpuset.mems)" in launch.fenced_stderr


def test_nothing_is_left(launch: Launch) -> None:
    """The working directory, /dev/shm and /tmp are as before, and nothing of the job still runs."""
    assert launch.before == launch.after
    assert launch.running == ""
