"""A launch that survives everything: each row of rows.py, and what does not fit into one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.runtime.job import START_TIMEOUT_S
from tests.e2e.conftest import BIN, CHECKOUT, RANKMAP, SHARED_MEMORY, Done, environment, run, traces
from tests.e2e.rows import ROWS, Row, left_since, play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Rankmap = Callable[..., Done]

pytestmark = pytest.mark.dragon

PYTHON = sys.executable
FAULTS = str(CHECKOUT / "tests" / "e2e" / "faults")
ONE = ("-n", "1", "--pmi", "none")
TRUE = ("launch", *ONE, "--", "true")
GIB = 1 << 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_job_ends_as_it_has_to(row: Row) -> None:
    """Right status, right words, in time, nothing left."""
    assert play(row) == []


# -- output -------------------------------------------------------------------------------------------------------

NOISE = bytes(range(128, 256)) + b"\n"
SPEAKERS = f"""
import os, sys
match os.environ["RANKMAP_RANK"]:
    case "0":
        for _ in range({GIB >> 20}):
            sys.stdout.buffer.write(b"y" * {1 << 20})
    case "1":
        sys.stdout.buffer.write({NOISE!r} * 100_000)
"""


def test_a_gibibyte_without_newline_and_binary_and_nothing_arrive_in_bounded_memory() -> None:
    """One rank prints 1 GiB without a newline, one binary data, one nothing: all of it comes, rankmap stays small."""
    command = [RANKMAP, "launch", "-n", "3", "--oversubscribe", "--pmi", "none", "--", PYTHON, "-c", SPEAKERS]
    n_y, highest_kib = 0, 0
    noise = hashlib.sha256()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment({}), cwd=CHECKOUT) as job:
        assert job.stdout is not None
        while data := job.stdout.read(1 << 20):
            n_y += data.count(b"y")
            noise.update(data.replace(b"y", b""))
            if n_y > 0.9 * GIB:
                highest_kib = max(highest_kib, peak_kib(job.pid) or highest_kib)
    assert (0, GIB, hashlib.sha256(NOISE * 100_000).hexdigest()) == (job.returncode, n_y, noise.hexdigest())
    assert 0 < highest_kib < 200 * 1024


def peak_kib(pid: int) -> int:
    """Return the most memory that this process has had at a time; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def test_a_disk_that_fills_up_under_a_ranks_file_is_said_and_the_rest_comes_here(
    rankmap: Rankmap, tmp_path: Path
) -> None:
    """The rank whose file is full writes to rankmap's stdout, labelled; the other ranks' files are complete."""
    (tmp_path / "rank-1.out").symlink_to("/dev/full")
    program = "import os; [print(os.environ['RANKMAP_RANK'], i) for i in range(20_000)]"
    done = rankmap(
        "launch", "-n", "2", "--oversubscribe", "--pmi", "none", "--output-dir", str(tmp_path), "--",
        PYTHON, "-c", program,
    )  # fmt: skip
    assert 1 == done.status
    assert f"{tmp_path}/rank-1.out cannot be written: No space left on device; the rest of rank 1's" in done.stderr
    assert "some output could not be written where it was asked for" in done.stderr
    assert [f"[1] 1 {i}" for i in range(20_000)] == done.stdout.splitlines()
    assert [f"0 {i}" for i in range(20_000)] == (tmp_path / "rank-0.out").read_text().splitlines()


def test_a_stdout_that_is_full_is_said_and_the_rest_goes_to_stderr(tmp_path: Path) -> None:
    """The job goes on: its results may be in files of its own."""
    program = "import sys; [print('line', i) for i in range(20_000)]; open(sys.argv[1], 'w').close()"
    launch = f"'{RANKMAP}' launch {' '.join(ONE)} -- '{PYTHON}' -c \"{program}\" {tmp_path}/done"
    done = run("bash", "-c", f"{launch} >/dev/full")
    assert (1, True) == (done.status, (tmp_path / "done").exists())
    lines = done.stderr.splitlines()
    assert "rankmap: stdout cannot be written: No space left on device; the rest of it comes here" == lines[0]
    assert [f"line {i}" for i in range(20_000)] == [line for line in lines if line.startswith("line")]


def test_a_place_for_output_that_is_full_is_refused_before_the_launch(rankmap: Rankmap, full_disk: Path) -> None:
    """--report and --output-dir are tried out: no job runs for hours whose results cannot be kept."""
    for option in ("--report", "--output-dir"):
        name = full_disk / "report.json" if option == "--report" else full_disk
        done = rankmap("launch", *ONE, option, str(name), "--", "touch", str(full_disk))
        assert 2 == done.status
        assert f"{option} {name}: nothing can be written there: No space left on device" in done.stderr
        assert done.seconds < 5


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system without room; skip where it cannot be made (it needs root)."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system can only be mounted by root")
    try:
        (tmp_path / "filler").write_bytes(bytes(16 << 10))
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_slow_reader_gets_all_of_a_job_that_fails_too(tmp_path: Path) -> None:
    """However long after the ranks' end it reads: nothing is thrown away for the sake of being over."""
    program = "import sys; sys.stdout.write('y' * 6_000_000); sys.stdout.flush(); sys.exit(3)"
    launch = f"'{RANKMAP}' launch {' '.join(ONE)} --kill-grace 1 -- '{PYTHON}' -c \"{program}\" 2>{tmp_path}/err"
    done = run("bash", "-c", f"{launch} | (sleep 12; wc -c); echo ${{PIPESTATUS[0]}}")
    assert "6000000\n3\n" == done.stdout


def test_a_job_whose_stderr_cannot_be_written_keeps_its_status_and_report(tmp_path: Path) -> None:
    """A terminal that is gone, a full disk: what can be said is the status, and it is."""
    launch = f"'{RANKMAP}' launch {' '.join(ONE)} --report {tmp_path}/r.json -- sh -c 'exit 3'"
    assert 3 == run("bash", "-c", f"{launch} 2>/dev/full").status
    assert "match" == json.loads((tmp_path / "r.json").read_text())["verdict"]


# -- the terminal -------------------------------------------------------------------------------------------------


def test_ctrl_c_at_a_terminal_ends_the_job() -> None:
    """The terminal sends SIGINT to its foreground process group; the runtime is in another one."""
    ours, theirs = os.openpty()
    command = [RANKMAP, "launch", *ONE, "--", "sh", "-c", "trap 'echo asked; exit' TERM; echo up; sleep 600 & wait"]
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment({})
        ) as job:
            os.close(theirs)
            try:
                assert b"up\r\n" == terminal.read(4)
                os.write(ours, b"\x03")
                assert 130 == job.wait(timeout=10)
            finally:
                job.kill()
        said = b""
        with suppress(OSError):  # the end of a terminal is an error
            while data := terminal.read(4096):
                said += data
    assert b"asked" in said
    assert b"rankmap: ended by SIGINT" in said


def test_a_job_under_nohup_survives_the_hangup(tmp_path: Path) -> None:
    """A signal that was ignored when rankmap was started stays ignored."""
    command = ["nohup", RANKMAP, "launch", *ONE, "--", "sh", "-c", "echo up; sleep 3; echo done"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment({}),
        cwd=tmp_path,
    ) as job:  # fmt: skip
        assert job.stdout is not None
        assert b"up\n" == job.stdout.readline()
        job.send_signal(signal.SIGHUP)
        assert b"done\n" == job.stdout.read()
    assert 0 == job.returncode


def test_temporary_files_may_be_in_shared_memory(rankmap: Rankmap) -> None:
    """TMPDIR=/dev/shm, as on nodes without disks."""
    assert 0 == rankmap(*TRUE, env={"TMPDIR": SHARED_MEMORY}).status


def test_more_ranks_than_files_may_be_open_are_refused() -> None:
    """Before anything is started."""
    done = run("bash", "-c", f"ulimit -n 300; '{RANKMAP}' launch -n 64 --oversubscribe --pmi none -- true")
    assert 122 == done.status
    assert "64 ranks need up to 676 open files here, and the limit is 300" in done.stderr


# -- a runtime that does not start --------------------------------------------------------------------------------


def test_too_little_shared_memory_is_refused_with_the_cure() -> None:
    """The 64 MiB that docker gives a container; Dragon would stop with a traceback, or hang."""
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if run("unshare", "-rm", "sh", "-c", mount).status != 0:
        pytest.skip("this system lets us make no mount namespace")
    done = run("unshare", "-rm", "sh", "-c", f"{mount} && exec '{RANKMAP}' {' '.join(TRUE)}")
    assert 122 == done.status
    assert "has 0.1 GiB free of 0.1; Dragon needs 4.2 GiB there to start" in done.stderr
    assert "--shm-size=8g" in done.stderr


def test_a_little_shared_memory_does_when_dragon_is_told(tmp_path: Path) -> None:
    """The cure that the refusal names works."""
    mount = "mount -t tmpfs -o size=1400m tmpfs /dev/shm"
    if run("unshare", "-rm", "sh", "-c", mount).status != 0:
        pytest.skip("this system lets us make no mount namespace")
    script = f"{mount} && export DRAGON_DEFAULT_SEG_SZ={GIB} && '{RANKMAP}' {' '.join(TRUE)}; echo $?; ls -A /dev/shm"
    done = run("unshare", "-rm", "sh", "-c", script, cwd=tmp_path)
    assert "0\n" == done.stdout, done.stderr


def test_a_missing_dragon_is_said_at_once(tmp_path: Path) -> None:
    """Neither beside this Python nor on PATH."""
    (tmp_path / "python").symlink_to(PYTHON)
    packages = sysconfig.get_path("purelib")
    hwloc = next(Path(sysconfig.get_path("data"), "lib").rglob("libhwloc.so.15*"))
    done = run(
        "env", f"PATH={tmp_path}:/usr/bin:/bin", f"PYTHONPATH={CHECKOUT}:{packages}", f"RANKMAP_LIBHWLOC={hwloc}",
        str(tmp_path / "python"), "-m", "rankmap", *TRUE,
    )  # fmt: skip
    assert 122 == done.status
    assert f"the Dragon runtime is not installed: no dragon beside {tmp_path}/python nor on PATH" in done.stderr
    assert "pip install dragonhpc" in done.stderr


def test_a_dragon_that_fails_to_start_is_said_with_its_last_words(rankmap: Rankmap) -> None:
    """Status 122, and what it printed."""
    done = rankmap(*TRUE, env={"PYTHONPATH": FAULTS, "RANKMAP_TEST_DRAGON": "die"})
    assert 122 == done.status
    assert "the Dragon runtime did not start: dragon ended\n  dragon: broken on purpose" in done.stderr


def test_a_dragon_that_hangs_at_its_start_is_ended(rankmap: Rankmap) -> None:
    """Nobody waits for ever, nothing stays; how long a start may take can be said, and is less than a minute."""
    assert START_TIMEOUT_S < 60
    done = rankmap(
        "launch", "--start-timeout", "1", *TRUE[1:], env={"PYTHONPATH": FAULTS, "RANKMAP_TEST_DRAGON": "hang"}
    )
    assert 122 == done.status
    assert "the Dragon runtime was not ready after 1 s\n  dragon: stuck on purpose" in done.stderr
    assert "--start-timeout TIME waits longer" in done.stderr


def test_a_session_leader_may_launch() -> None:
    """As from cron, systemd or a container's first process; Dragon itself hangs as one."""
    assert 0 == run("setsid", "--wait", RANKMAP, *TRUE).status


def test_dragons_ports_may_be_taken(rankmap: Rankmap) -> None:
    """On one host nothing listens on the ports that Dragon has for several; what PMIx needs it finds by itself."""
    taken = [socket.socket() for _ in range(3)]
    try:
        for sock, port in zip(taken, (7575, 6565, 6566), strict=True):
            sock.bind(("", port))
            sock.listen()
        done = rankmap(
            "launch",
            "-n",
            "2",
            "--oversubscribe",
            "--",
            PYTHON,
            "-c",
            "from mpi4py import MPI; MPI.COMM_WORLD.Barrier()",
        )
    finally:
        for sock in taken:
            sock.close()
    assert (0, "rankmap: placement: 2/2 ranks as planned") == (done.status, done.last_line)


# -- several jobs -------------------------------------------------------------------------------------------------

TALK = """
import sys
from mpi4py import MPI
world, tag = MPI.COMM_WORLD, sys.argv[1].encode() * 4096
print("up", flush=True)
wrong, buffer = 0, bytearray(len(tag))
for _ in range(int(sys.argv[2])):
    world.Sendrecv(tag, 1 - world.rank, recvbuf=buffer)
    wrong += buffer != tag
print("wrong", wrong)
"""


def talk(tag: str, repeats: int) -> subprocess.Popen[str]:
    """Start a job whose two ranks exchange messages that only this job sends, and wait until they are up."""
    command = [RANKMAP, "launch", "-n", "2", "--oversubscribe", "--", PYTHON, "-c", TALK, tag, str(repeats)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment({}), cwd=CHECKOUT, text=True)
    assert job.stdout is not None
    assert ["up\n", "up\n"] == [job.stdout.readline(), job.stdout.readline()]
    return job


def test_two_jobs_at_once_do_not_meet() -> None:
    """Every Dragon runtime calls its first MPI job the same: without care, the two would share Open MPI's memory."""
    first = talk("a", 300_000)
    second = talk("b", 300_000)
    assert [("wrong 0\nwrong 0\n", 0), ("wrong 0\nwrong 0\n", 0)] == [
        (job.communicate(timeout=100)[0], job.returncode) for job in (first, second)
    ]


def test_the_end_of_one_job_leaves_the_other_alone() -> None:
    """A job that is killed, runtime and all, cleans up after itself and nobody else."""
    first = talk("a", 300_000)
    before = traces()
    second = talk("b", 1_000_000_000)
    second.send_signal(signal.SIGKILL)
    second.communicate(timeout=30)
    assert set() == left_since(before, within_s=30)
    assert ("wrong 0\nwrong 0\n", 0) == (first.communicate(timeout=100)[0], first.returncode)


MANY = """
import json, os, sys
import rankmap

def used():
    group = os.getpgid(0)
    stats = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stats.append(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split())
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended meanwhile
    with open("/proc/self/status") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": sum(int(stat[2]) == group for stat in stats),
        "shared memory": len(os.listdir("/dev/shm")),
        "temporary files": len(os.listdir(os.environ["TMPDIR"])),
        "MiB": kib // 1024,
    }

plan = rankmap.plan(rankmap.discover(), n_ranks=1)
seen = []
for _ in range(30):
    result = rankmap.launch(plan, ["true"], pmi="none")
    assert result.status == 0, result.reason
    seen.append(used())
with open(sys.argv[1], "w") as file:
    json.dump([seen[1], seen[-1]], file)
"""


def test_thirty_launches_leave_no_more_than_one(tmp_path: Path) -> None:
    """Thirty in one runtime: the same descriptors, threads, processes, files, and within 2 MiB the same memory."""
    program, answer = tmp_path / "program.py", tmp_path / "answer.json"
    program.write_text(MANY)
    done = run(str(BIN / "dragon"), "-s", str(program), str(answer), limit_s=300)
    assert 0 == done.status, done.stderr
    early, late = json.loads(answer.read_text())
    assert late.pop("MiB") <= early.pop("MiB") + 2
    assert early == late
