"""rankmap inside a Dragon runtime that somebody else started: the command, and the Python API."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import BIN, CHECKOUT, RANKMAP, TEMPORARY, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.dragon

DRAGON = str(BIN / "dragon")
HELLO = str(CHECKOUT / "mpi_examples" / "hello_affinity.py")

PROGRAM = """
import json, os, subprocess, sys
import rankmap

subprocess.run(["rankmap", "topo"], check=True)  # as a command, it has got this process's handshake with Dragon
allocation = rankmap.discover("aurora")
plan = rankmap.plan(allocation, n_ranks=2, oversubscribe=True)
policies = plan.policies()
app = ("import os; from mpi4py import MPI; MPI.COMM_WORLD.Barrier(); "
       "raise SystemExit(4 if MPI.COMM_WORLD.rank == 1 else os.environ['ZE_ENABLE_PCI_ID_DEVICE_ORDER'] != '1')")
result = rankmap.launch(plan, [sys.executable, "-c", app], machine="aurora")
with open(sys.argv[1], "w") as file:
    json.dump({
        "host": allocation.nodes[0].host,
        "policy_host": policies[1].host_name,
        "policy_cpus": policies[1].cpu_affinity,
        "planned": [list(rank.cpus) for rank in plan.ranks],
        "templates": sum(count for count, _ in plan.process_templates()),
        "template": plan.process_template(1)["policy"].cpu_affinity,
        "status": result.status,
        "exit_codes": result.exit_codes,
        "verdict": str(result.report.verdict),
    }, file)
"""


def test_the_command_uses_the_runtime_around_it(libpmix: Mapping[str, str], tmp_path: Path) -> None:
    """``dragon rankmap launch`` starts no second runtime, verifies, and its status is dragon's."""
    report_file = tmp_path / "report.json"
    done = run(
        DRAGON, "-s", RANKMAP, "launch", "-n", "2", "--oversubscribe", "--report", str(report_file), "--",
        sys.executable, HELLO, env=libpmix,
    )  # fmt: skip
    assert 0 == done.status
    assert "rankmap: placement: 2/2 ranks as planned" in done.stderr
    assert ["rank 0 of 2", "rank 1 of 2"] == sorted(line[:11] for line in done.stdout.splitlines() if "rank" in line)
    report = json.loads(report_file.read_text())
    assert 1 == sum(service["name"] == "Dragon runtime" for service in report["services"])


def test_output_is_complete_although_dragon_loses_its_own(libpmix: Mapping[str, str]) -> None:
    """200,000 lines arrive from inside a runtime, whose own pipes would lose the end of them.

    The runtime was started without the machine's variables; the rank has them all the same.
    """
    command = f"echo $ZE_ENABLE_PCI_ID_DEVICE_ORDER; {sys.executable} -c 'for i in range(200_000): print(i)'"
    done = run(
        DRAGON, "-s", RANKMAP, "launch", "-n", "1", "--oversubscribe", "--pmi", "none", "--machine", "aurora",
        "--", "sh", "-c", command, env=libpmix,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if not line.startswith("+++")]
    assert ["1", *(str(i) for i in range(200_000))] == lines


def test_a_runtime_that_cannot_start_mpi_ranks_is_told_so() -> None:
    """Where libpmix is not to be found by the runtime, the launch is refused; it would have aborted the runtime."""
    done = run(DRAGON, "-s", RANKMAP, "launch", "-n", "1", "--", sys.executable, HELLO)
    assert 122 == done.status
    assert "this Dragon runtime was started where libpmix.so cannot be found" in done.stderr
    assert "export LD_LIBRARY_PATH=" in done.stderr


def test_the_python_api_plans_and_launches(libpmix: Mapping[str, str], tmp_path: Path) -> None:
    """discover, plan, policies, templates and launch work in a program under Dragon, also after commands of rankmap's.

    The result says how it ended. The ranks have the machine's variables, which the runtime has not.
    """
    program, answer = tmp_path / "program.py", tmp_path / "answer.json"
    program.write_text(PROGRAM)
    done = run(DRAGON, "-s", str(program), str(answer), env=libpmix)
    assert 0 == done.status, done.stderr
    got = json.loads(answer.read_text())
    assert ("localhost", got["planned"][1]) == (got["policy_host"], got["policy_cpus"])
    assert (2, got["planned"][1]) == (got["templates"], got["template"])
    assert (4, "match", {"0": 0, "1": 4}) == (got["status"], got["verdict"], got["exit_codes"])


LEAVING = """
import os, subprocess, sys, time
subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL)
print("up", flush=True)
time.sleep(float(sys.argv[1]))
"""


def test_children_of_ranks_are_gone_and_the_runtime_stays(tmp_path: Path) -> None:
    """What ranks leave behind is found by its environment, as nobody of ours is its parent; further jobs can run.

    The commands of a script have one identity in Dragon, whose handshake only the first of them gets.
    """
    (tmp_path / "leave.py").write_text(LEAVING)
    launch = f"'{RANKMAP}' launch -n 1 --pmi none -- '{sys.executable}' {tmp_path}/leave.py 0"
    (tmp_path / "jobs.sh").write_text(f"#!/bin/sh -e\n{launch}\n{launch}\n{launch} & {launch}\nwait\n")
    (tmp_path / "jobs.sh").chmod(0o755)
    done = run(DRAGON, "-s", str(tmp_path / "jobs.sh"))
    assert 0 == done.status, done.stderr
    assert 4 == done.stdout.count("up\n")
    assert 4 == done.stderr.count("rankmap: placement: 1/1 ranks as planned")


def test_an_abort_ends_the_job_in_a_runtime_that_stays(libpmix: Mapping[str, str]) -> None:
    """MPI_Abort of one rank ends the others; the status is its own."""
    program = "from mpi4py import MPI; w = MPI.COMM_WORLD; w.Abort(9) if w.rank == 1 else w.Barrier()"
    done = run(
        DRAGON, "-s", RANKMAP, "launch", "-n", "2", "--oversubscribe", "--", sys.executable, "-c", program,
        env=libpmix,
    )  # fmt: skip
    assert 9 == done.status
    assert "exited with status 9 while rank 0 was still in MPI (MPI_Abort" in done.stderr


def test_a_command_that_is_killed_takes_its_ranks_with_it(tmp_path: Path) -> None:
    """SIGKILL of ``rankmap launch`` inside a runtime: the head ends the ranks and their children."""
    (tmp_path / "job.py").write_text(
        "import os, subprocess, time\n"
        f"job = subprocess.Popen([{RANKMAP!r}, 'launch', '-n', '1', '--pmi', 'none', '--',\n"
        f"    'sh', '-c', 'sleep 600 & touch {tmp_path}/up; wait'])\n"
        "def ours():\n"
        "    found = []\n"
        "    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "        try:\n"
        "            environ = open(f'/proc/{pid}/environ', 'rb').read()\n"
        "        except OSError:\n"
        "            continue\n"
        f"        if b'RANKMAP_JOB=' in environ and {os.fsencode(TEMPORARY)!r} in environ:\n"
        "            found.append(pid)\n"
        "    return found\n"
        "end = time.monotonic() + 60\n"
        f"while not os.path.exists('{tmp_path}/up') and time.monotonic() < end: time.sleep(0.1)\n"
        "started = ours()\n"
        "job.kill()\n"
        "job.wait()\n"
        "assert len(started) >= 3, started  # the head, the rank, its child; Dragon may have more\n"
        "while ours() and time.monotonic() < end: time.sleep(0.1)\n"
        "assert not ours(), ours()\n"
    )
    done = run(DRAGON, "-s", str(tmp_path / "job.py"))
    assert 0 == done.status, done.stderr


EARLY = """
import sys
import rankmap

plan = rankmap.plan(rankmap.discover(), n_ranks=1)
ended = []
for how in sys.argv[1:]:
    result = rankmap.launch(plan, ["sleep", "600"], pmi="none", **eval(how))
    ended.append(result.status)
    print("ended", result.status, result.reason, flush=True)
print("then", rankmap.launch(plan, ["true"], pmi="none").status, flush=True)
"""


def test_a_runtime_works_on_after_jobs_that_ended_early(tmp_path: Path) -> None:
    """In whatever moment of its start a job ends, Dragon's processes for it are not killed while they talk."""
    program = tmp_path / "early.py"
    program.write_text(EARLY)
    limits = [f"dict(timeout_s={0.1 * i:.1f})" for i in range(1, 13)]
    done = run(DRAGON, "-s", str(program), *limits, "dict(start_timeout_s=0.01)", limit_s=400)
    ends = [line for line in done.stdout.splitlines() if line.startswith("ended")]
    assert 12 == sum(line.startswith("ended 124 --timeout") for line in ends), done.stderr
    assert 1 == sum(line.startswith("ended 122 the Dragon runtime was not ready") for line in ends)
    assert "then 0" in done.stdout.splitlines()
