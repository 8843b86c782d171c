"""``rankmap launch`` for real: Dragon, Open MPI, and what the user sees of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import CHECKOUT, RANKMAP, Done, environment, run

if TYPE_CHECKING:
    from collections.abc import Callable

    Rankmap = Callable[..., Done]

pytestmark = pytest.mark.dragon

PYTHON = sys.executable
CORES = sorted(os.sched_getaffinity(0))
HELLO = str(CHECKOUT / "mpi_examples" / "hello_affinity.py")
TWO = ("-n", "2", *(("--oversubscribe",) if len(CORES) < 2 else ()))


def python(text: str) -> tuple[str, str, str, str]:
    """Return the command that runs this program text as every rank."""
    return ("--", PYTHON, "-c", text)


def test_every_rank_is_bound_and_the_report_proves_it(rankmap: Rankmap, tmp_path: Path) -> None:
    """Two MPI ranks get a core each; stdout is theirs alone, the verdict is on stderr, the report has both sides."""
    report_file = tmp_path / "report.json"
    done = rankmap("launch", *TWO, "--label", "--report", str(report_file), "--report-bindings", "--", PYTHON, HELLO)
    assert (done.status, done.last_line) == (0, "rankmap: placement: 2/2 ranks as planned")
    lines = sorted(done.stdout.splitlines())
    assert [line[:15] for line in lines] == ["[0] rank 0 of 2", "[1] rank 1 of 2"]
    report = json.loads(report_file.read_text())
    assert (report["schema"], report["verdict"]) == ("rankmap.report/1", "match")
    for rank, line in zip(report["ranks"], lines, strict=True):
        assert rank["planned"]["cpus"] == rank["observed"]["cpus"]
        assert f" pid {rank['observed']['pid']} " in line
        assert " cpus " + ",".join(map(str, rank["observed"]["cpus"])) + " " in line
        assert rank["findings"] == []
    assert "Dragon runtime" in {service["name"] for service in report["services"]}
    assert " ok" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/numa_maps").exists(), reason="a kernel without NUMA")
@pytest.mark.parametrize("policy", ["bind:0", "interleave:0"])
def test_the_memory_policy_of_a_job_that_ends_at_once_is_known(rankmap: Rankmap, tmp_path: Path, policy: str) -> None:
    """Nobody looked at it while it ran: the kernel was asked before."""
    report_file = tmp_path / "report.json"
    done = rankmap(
        "launch", "-n", "1", "--mem-bind", policy, "--pmi", "none", "--report", str(report_file), "--", "true"
    )
    (rank,) = json.loads(report_file.read_text())["ranks"]
    assert (0, policy, policy, 0) == (
        done.status,
        rank["planned"]["mem"],
        rank["observed"]["mem"],
        rank["observed"]["threads"],
    )


def test_no_option_starts_one_rank_per_usable_core(rankmap: Rankmap) -> None:
    """Plain ``rankmap launch APP`` is one rank per core, as mpirun does."""
    plan = rankmap("plan", "--format", "ranks")
    done = rankmap("launch", "--pmi", "none", "--", "sh", "-c", 'echo "$RANKMAP_RANK"')
    expected = sorted(json.loads(line)["rank"] for line in plan.stdout.splitlines())
    assert expected == sorted(map(int, done.stdout.split()))


def test_ranks_see_one_world_across_libraries_and_oversubscription(rankmap: Rankmap, mpi_programs: Path) -> None:
    """Four ranks on two cores, C and Open MPI: one MPI_COMM_WORLD of four, two ranks a core at most."""
    done = rankmap("launch", "-n", "4", "--oversubscribe", "--", str(mpi_programs / "hello_affinity"))
    assert (done.status, done.last_line) == (0, "rankmap: placement: 4/4 ranks as planned")
    assert sum(" of 4 " in line for line in done.stdout.splitlines()) == 4


def test_ring_times_messages_between_neighbours(rankmap: Rankmap, tmp_path: Path) -> None:
    """ring.py runs under rankmap and writes what it measured."""
    times = tmp_path / "times.json"
    done = rankmap(
        "launch", *TWO, "--", PYTHON, str(CHECKOUT / "mpi_examples" / "ring.py"), "--json", str(times), "--repeats", "2"
    )
    assert done.status == 0
    assert json.loads(times.read_text())


def test_output_of_every_rank_arrives_complete(rankmap: Rankmap) -> None:
    """200,000 lines from each of 4 ranks arrive, in order per rank, whole."""
    program = (
        "import os, sys; r = os.environ['RANKMAP_RANK']\n"
        "for i in range(200_000): sys.stdout.write(f'{r} {i} {\"x\" * 20}\\n')"
    )
    done = rankmap("launch", "-n", "4", "--oversubscribe", "--pmi", "none", "--label", *python(program))
    assert (done.status, done.last_line) == (0, "rankmap: placement: 4/4 ranks as planned")
    expected = [f"[{rank}] {rank} {i} {'x' * 20}" for rank in range(4) for i in range(200_000)]
    got: dict[str, list[str]] = {str(rank): [] for rank in range(4)}
    for line in done.stdout.splitlines():
        got[line[1]].append(line)
    assert expected == [line for rank in got.values() for line in rank]


def test_a_slow_reader_loses_nothing(tmp_path: Path) -> None:
    """What a reader takes only after the ranks have ended arrives all the same."""
    write = "import sys; sys.stdout.write('y' * 6_000_000)"
    launch = f"'{RANKMAP}' launch -n 1 --pmi none -- '{PYTHON}' -c \"{write}\" 2>{tmp_path}/err"
    done = run("bash", "-c", f"{launch} | (sleep 9; wc -c); echo ${{PIPESTATUS[0]}}")
    assert "6000000\n0\n" == done.stdout


def test_a_rank_may_write_files_of_its_own(rankmap: Rankmap, tmp_path: Path) -> None:
    """--output-dir gives each rank a file for stdout and one for stderr."""
    program = "import os, sys; print('out', os.environ['RANKMAP_RANK']); print('err', file=sys.stderr)"
    done = rankmap("launch", *TWO, "--pmi", "none", "--output-dir", str(tmp_path / "new" / "dir"), *python(program))
    assert (done.status, done.stdout) == (0, "")
    files = {path.name: path.read_text() for path in (tmp_path / "new" / "dir").iterdir()}
    expected = {"rank-0.out": "out 0\n", "rank-1.out": "out 1\n", "rank-0.err": "err\n", "rank-1.err": "err\n"}
    assert expected == files


def test_one_rank_may_read_standard_input_and_no_other_does(rankmap: Rankmap) -> None:
    """--stdin 0 hands the caller's stdin to rank 0 whole; rank 1 reads the end of /dev/null at once."""
    program = (
        "import os, sys; print(os.environ['RANKMAP_RANK'], len(sys.stdin.read()), os.readlink('/proc/self/fd/0')[:9])"
    )
    done = rankmap("launch", *TWO, "--pmi", "none", "--stdin", "0", *python(program), stdin="y" * 300_000)
    lines = sorted(done.stdout.splitlines())
    assert [lines[0][:15], lines[1]] == ["0 300000 pipe:[", "1 0 /dev/null"]


def test_environment_directory_and_signals_are_as_a_shell_gives_them(rankmap: Rankmap, tmp_path: Path) -> None:
    """--env and --cwd hold, LD_LIBRARY_PATH has nothing that only Dragon needs, SIGPIPE is not ignored."""
    program = (
        "import os; e = os.environ; print(e.get('A'), 'HOME' in e, os.getcwd(),\n"
        "[p for p in e.get('LD_LIBRARY_PATH', '').split(':') if 'rankmap-' in p or p.endswith('/openmpi')],\n"
        "[l for l in open('/proc/self/status') if l.startswith('SigIgn')][0].split()[1])"
    )
    done = rankmap("launch", "-n", "1", "--pmi", "none", "--", "grep", "SigIgn", "/proc/self/status")
    ignored = int(done.stdout.split()[1], 16)
    assert 0 == ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)
    done = rankmap(
        "launch",
        "-n",
        "1",
        "--pmi",
        "none",
        "--env",
        "A=b c",
        "--unset",
        "HOME",
        "--cwd",
        str(tmp_path),
        *python(program),
    )
    assert f"b c False {tmp_path} [] " == done.stdout[: len(f"b c False {tmp_path} [] ")]


@pytest.mark.parametrize(
    ("program", "status", "message"),
    [
        ("sys.exit(3 if rank == 1 else 0)", 3, "rank 1 on HOST exited with status 3"),
        ("os.kill(os.getpid(), 11) if rank == 1 else world.Barrier()", 139, "was killed by SIGSEGV"),
        ("world.Abort(9) if rank == 1 else world.Barrier()", 9, "rank 1 on HOST exited with status 9"),
    ],
)
def test_the_status_is_that_of_the_rank_that_failed_first(
    rankmap: Rankmap, program: str, status: int, message: str
) -> None:
    """A failing rank ends the job, with its status and a message that names it."""
    text = f"import os, sys\nfrom mpi4py import MPI\nworld = MPI.COMM_WORLD\nrank = world.rank\n{program}"
    done = rankmap("launch", *TWO, "--kill-grace", "1", *python(text))
    assert status == done.status
    assert message.replace("HOST", os.uname().nodename) in done.stderr


def test_ranks_know_their_place_and_bind_once(rankmap: Rankmap) -> None:
    """A batch step's own numbers are not the ranks', and what would bind threads elsewhere is gone, and was said."""
    stale = {"SLURM_LOCALID": "7", "SLURM_PROCID": "7", "PMI_RANK": "7", "KMP_AFFINITY": "compact"}
    names = (
        "SLURM_LOCALID",
        "SLURM_PROCID",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "MPI_LOCALRANKID",
        "KMP_AFFINITY",
        "PMI_RANK",
    )
    program = f"import os; from mpi4py import MPI; print(MPI.COMM_WORLD.rank, *map(os.environ.get, {names}))"
    done = rankmap("launch", *TWO, "--threads", "1", "--env", "MPI_LOCALRANKID=9", *python(program), env=stale)
    assert (0, ["0 0 0 2 9 None None", "1 1 1 2 9 None None"]) == (done.status, sorted(done.stdout.splitlines()))
    assert 1 == done.stderr.count("KMP_AFFINITY=compact: ")


def test_a_variable_that_is_not_as_planned_is_found(rankmap: Rankmap) -> None:
    """``--env`` wins over ``--threads``, and the verification says so."""
    options = ("--threads", "1", "--env", "OMP_PLACES=threads", "--verify", "warn", "--pmi", "none")
    done = rankmap("launch", "-n", "1", *options, "--", "sh", "-c", "echo $OMP_PLACES; sleep 1")
    assert "threads\n" == done.stdout
    assert "rank 0 (variables-differ): planned OMP_PLACES={" in done.stderr
    assert "found OMP_PLACES=threads" in done.stderr


def test_a_time_limit_ends_the_job(rankmap: Rankmap) -> None:
    """--timeout ends with 124 and says which ranks still ran."""
    done = rankmap("launch", *TWO, "--pmi", "none", "--timeout", "4", "--", "sleep", "600")
    assert done.status == 124
    assert f"ranks 0-1 still ran on {os.uname().nodename}" in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_job_and_leaves_nothing(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """Ctrl-C, SIGTERM and SIGHUP to rankmap end ranks and runtime."""
    err = tmp_path / "err"
    with err.open("w") as file:
        job = subprocess.Popen(
            [RANKMAP, "launch", *TWO, "--pmi", "none", "--", "sh", "-c", "echo up; exec sleep 600"],
            stdout=subprocess.PIPE,
            stderr=file,
            env=environment({}),
            cwd=CHECKOUT,
        )
        assert job.stdout is not None
        try:
            assert b"up\n" == job.stdout.readline()
            job.send_signal(number)
            assert status == job.wait(timeout=30)
        finally:
            job.kill()
            job.communicate()
    assert f"ended by {number.name}" in err.read_text()


def test_a_reader_that_has_had_enough_ends_the_job_quietly(tmp_path: Path) -> None:
    """``rankmap launch ... | head -1`` ends, as any program in a pipeline does."""
    script = f"'{RANKMAP}' launch -n 1 --pmi none -- yes 2>{tmp_path}/err | head -1; echo ${{PIPESTATUS[0]}}"
    done = run("bash", "-c", script)
    assert done.stdout == "y\n141\n"
    assert "Traceback" not in (tmp_path / "err").read_text()


def test_a_rank_in_the_wrong_place_never_starts_the_application(rankmap: Rankmap, tmp_path: Path) -> None:
    """When Dragon binds a rank elsewhere, the job stops with 125 before any application runs, and says where."""
    if len(CORES) < 2:
        pytest.skip("needs two cores to be wrong about")
    faults = {"PYTHONPATH": str(CHECKOUT / "tests" / "e2e" / "faults"), "RANKMAP_TEST_MISPLACE": "1"}
    trace = tmp_path / "ran"
    done = rankmap("launch", "-n", "2", "--pmi", "none", "--", "touch", str(trace), env=faults)
    assert (done.status, trace.exists()) == (125, False)
    assert f"rank 1 (cpus-differ): planned CPUs {CORES[1]}, found CPUs {CORES[0]}" in done.stderr
    assert done.last_line == "rankmap: placement: 1/2 ranks as planned, 1 not as planned"
    done = rankmap("launch", "-n", "2", "--pmi", "none", "--verify", "warn", "--", "touch", str(trace), env=faults)
    assert (done.status, trace.exists()) == (0, True)
    assert "rank 1 (cpus-differ)" in done.stderr


def test_a_rank_that_leaves_its_place_is_found(rankmap: Rankmap) -> None:
    """A thread that is bound outside the plan after the start stops the job with 125."""
    if len(CORES) < 2:
        pytest.skip("needs two cores to be wrong about")
    program = (
        "import os, time\n"
        f"if os.environ['RANKMAP_RANK'] == '0': os.sched_setaffinity(0, {{{CORES[1]}}})\n"
        "time.sleep(60)"
    )
    done = rankmap("launch", "-n", "2", "--pmi", "none", *python(program))
    assert done.status == 125
    assert "rank 0 (thread-outside-cpus): planned CPUs" in done.stderr


def test_nothing_but_the_ranks_uses_the_cores(rankmap: Rankmap) -> None:
    """While ranks compute, no thread of Dragon's services or of ours spins, and ours sleep."""
    meter = str(CHECKOUT / "tests" / "e2e" / "meter.py")
    done = rankmap("launch", *TWO, "--", PYTHON, meter)
    assert done.status == 0
    usage = json.loads(done.stdout)
    assert {name: share for name, share in usage.items() if share > 0.1} == {}
    launchers = {name for name in usage if name.split()[2].endswith("/dragon")}  # Dragon's, with our head as a word
    named = {name for name in usage if "rankmap launch" in name or "rankmap.runtime" in name}
    ours = {name: usage[name] for name in named - launchers}
    for part in ("rankmap launch", "rankmap.runtime.keeper", "rankmap.runtime.head"):
        assert any(part in name for name in ours), (part, usage)
    assert {name: share for name, share in ours.items() if share > 0.01} == {}


def test_verbose_says_why_this_pmi(rankmap: Rankmap) -> None:
    """-v names the MPI library and the reason for the PMI back end."""
    done = rankmap("launch", "-n", "1", "-v", "--", PYTHON, "-c", "pass")
    assert "PMI back end pmix: mpi4py of" in done.stderr
    assert "Open MPI 5 speaks PMIx" in done.stderr


def test_reserved_cpus_hold_the_services_and_no_rank(rankmap: Rankmap, tmp_path: Path) -> None:
    """--reserve keeps ranks off these CPUs and binds every service of the runtime to them."""
    if len(CORES) < 2:
        pytest.skip("needs a core to reserve")
    report_file = tmp_path / "report.json"
    last = CORES[-1]
    done = rankmap(
        "launch",
        "-n",
        "1",
        "-c",
        "1",
        "--reserve",
        str(last),
        "--pmi",
        "none",
        "--report",
        str(report_file),
        *python("import os; print(sorted(os.sched_getaffinity(0)))"),
    )
    assert done.status == 0
    assert last not in json.loads(done.stdout)
    report = json.loads(report_file.read_text())
    assert {(last,)} == {tuple(service["cpus"]) for service in report["services"]}


APART = "import os, sys; from mpi4py import MPI; w = MPI.COMM_WORLD; sys.stdout.write(f'{w.rank}/{w.size} %s\\n')"


def test_two_programs_are_one_job(rankmap: Rankmap, tmp_path: Path) -> None:
    """``A : B`` is one MPI_COMM_WORLD, ranks numbered part after part, each part with its own layout."""
    report_file = tmp_path / "report.json"
    done = rankmap(
        "launch", "-n", "1", "--oversubscribe", "--report", str(report_file), *python(APART % "a"), ":",
        "-n", "2", "--map-by", "core:OVERSUBSCRIBE", *python(APART % "b"),
    )  # fmt: skip
    assert (0, "rankmap: placement: 3/3 ranks as planned") == (done.status, done.last_line), done.stderr
    assert ["0/3 a", "1/3 b", "2/3 b"] == sorted(done.stdout.splitlines())
    assert "match" == json.loads(report_file.read_text())["verdict"]


def test_a_saved_plan_is_launched(rankmap: Rankmap, tmp_path: Path) -> None:
    """The same places; the plan's host may have another name when it is of the same make."""
    saved = tmp_path / "p.json"
    machine = tmp_path / "node.xml"
    assert 0 == rankmap("topo", "--format", "xml", "-o", str(machine)).status
    assert 0 == rankmap("plan", *TWO, "--machine", str(machine), "--format", "json", "-o", str(saved)).status
    done = rankmap("launch", "-v", "--plan", str(saved), *python(APART % "c"))
    assert (0, ["0/2 c", "1/2 c"]) == (done.status, sorted(done.stdout.splitlines())), done.stderr
    assert f"note: the plan's n0 are {os.uname().nodename} here" in done.stderr


def test_a_saved_plan_that_does_not_fit_is_refused(rankmap: Rankmap, tmp_path: Path) -> None:
    """With what differs; nothing is started."""
    saved = tmp_path / "p.json"
    machine = "synthetic:pack:2 numa:2 core:8 pu:2"
    assert 0 == rankmap("plan", "-n", "8", "--machine", machine, "--format", "json", "-o", str(saved)).status
    done = rankmap("launch", "--plan", str(saved), *python("pass"))
    assert 121 == done.status
    assert "the plan does not fit the nodes that there are" in done.stderr
    assert "another kind of node than planned for: packages: 2 planned," in done.stderr
    assert done.seconds < 5


def test_unbound_ranks_may_use_every_core(rankmap: Rankmap) -> None:
    """``--bind-to none`` is honoured, and verified as what it is."""
    done = rankmap("launch", *TWO, "--bind-to", "none", *python("import os; print(len(os.sched_getaffinity(0)))"))
    assert (0, [str(len(CORES))] * 2) == (done.status, done.stdout.split()), done.stderr
