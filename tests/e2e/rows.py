"""What can go wrong with a job, and what has to come of it: each row is played for real.

test_faults.py plays each row once; scripts/chaos.py plays them at random for as long as it is told to.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.runtime import processes
from tests.e2e.conftest import CHECKOUT, RANKMAP, environment, traces

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.runtime.processes import Found

__all__ = ["ROWS", "Row", "left_since", "play"]

HOST = os.uname().nodename
LIMIT_S = 90.0
_MPI = "from mpi4py import MPI\nworld = MPI.COMM_WORLD\n"
_START = """
import os, signal, sys, time
rank = int(os.environ["RANKMAP_RANK"])
def say(text):
    os.write(1, (text + "\\n").encode())
"""
_WAIT = "say(f'up {os.getpid()}')\ntime.sleep(600)\n"
_WRAPPED = """
child = 'trap "echo asked; exit 0" TERM; echo up $PPID; sleep 600 & wait'
os.execvp("sh", ["sh", "-c", 'sh -c "$1"; exit 7', "sh", child])
"""
_STUBBORN = "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


class Job:
    """A launch that is under way, for a row's ``act``. ``pids`` are the ranks' that have said that they are up."""

    def __init__(self, process: subprocess.Popen[bytes], pids: list[int]) -> None:
        self.process = process
        self.pids = pids

    def processes(self, command: str) -> list[Found]:
        """Return the processes of the job's runtime whose command line has this in it."""
        found = []
        for process in processes.descendants(self.process.pid):
            try:
                line = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            if re.search(command, line) and process.pid not in self.pids:
                found.append(process)
        return found


def to_rankmap(*numbers: signal.Signals) -> Callable[[Job], None]:
    """Return an act: send these signals to rankmap, one after the other was taken note of."""

    def act(job: Job) -> None:
        for position, number in enumerate(numbers):
            if position:
                time.sleep(0.5)  # the two Ctrl-C of a user
            job.process.send_signal(number)

    return act


def kill_rank(job: Job) -> None:
    """Kill a rank from outside."""
    os.kill(job.pids[0], signal.SIGKILL)


def kill_process(command: str, number: int = 0) -> Callable[[Job], None]:
    """Return an act: kill one of the processes of the runtime whose command lines have this in them."""

    def act(job: Job) -> None:
        os.kill(job.processes(command)[number].pid, signal.SIGKILL)

    return act


def stop_and_kill_a_rank(command: str) -> Callable[[Job], None]:
    """Return an act: a process of the runtime hangs, then a rank dies, of which nobody will tell."""

    def act(job: Job) -> None:
        os.kill(job.processes(command)[0].pid, signal.SIGSTOP)
        os.kill(job.pids[0], signal.SIGSEGV)

    return act


def signal_everything(job: Job) -> None:
    """Do what batch systems do: SIGTERM to every process of the job."""
    for process in processes.descendants(job.process.pid):
        processes.send_signal(process, signal.SIGTERM)
    job.process.send_signal(signal.SIGTERM)


def kill_everything_called_dragon(job: Job) -> None:
    """Do what users do: pkill -9 -f dragon."""
    for process in job.processes("dragon"):
        os.kill(process.pid, signal.SIGKILL)


def close_stdout(job: Job) -> None:
    """Stop reading what the job says."""
    assert job.process.stdout is not None
    job.process.stdout.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that goes wrong.

    Args:
        name: What.
        program: What each rank runs; it says "fault" just before the fault, or "up PID" when ``act`` may come.
        mpi: Whether the program uses MPI.
        words: Options of the launch.
        act: What is done to the job from outside, once both ranks are up.
        status: What rankmap returns.
        says: What stderr has in it, as regular expressions.
        prints: What stdout has in it.
        silent: Whether stderr has to stay empty.
        within_s: The most time from the fault to rankmap's end.
        gone_within_s: The most time from rankmap's end until nothing is left of the job.
    """

    name: str
    program: str
    status: int
    mpi: bool = True
    words: tuple[str, ...] = ()
    act: Callable[[Job], None] | None = None
    says: tuple[str, ...] = ()
    prints: tuple[str, ...] = ()
    within_s: float = 5.0
    gone_within_s: float = 0.0
    silent: bool = False


def play(row: Row) -> list[str]:
    """Play the row; return what was not as it has to be."""
    before = traces()
    pmi = () if row.mpi else ("--pmi", "none")
    program = _START + (_MPI if row.mpi else "") + row.program
    command = [RANKMAP, "launch", "-n", "2", "--oversubscribe", *pmi, *row.words, "--", sys.executable, "-c", program]
    with tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, cwd=CHECKOUT, env=environment({}),
        )  # fmt: skip
        watchdog = threading.Timer(LIMIT_S, process.kill)
        watchdog.start()
        try:
            out, fault_s = _follow(row, process)
            status = process.wait(timeout=LIMIT_S)
            took_s = time.monotonic() - fault_s
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            if process.stdout is not None and not process.stdout.closed:
                process.stdout.close()
        err.seek(0)
        stderr = err.read().decode(errors="replace")
    problems = [f"stderr lacks {text!r}" for text in row.says if not re.search(text, stderr)]
    problems += [f"stdout lacks {text!r}" for text in row.prints if text not in out]
    if row.silent and stderr:
        problems.append("stderr is not empty")
    if status != row.status:
        problems.append(f"status {status}, not {row.status}")
    if took_s > row.within_s:
        problems.append(f"took {took_s:.1f} s from the fault to the end, more than {row.within_s:g}")
    if "Traceback" in stderr and "dragon:" not in stderr:
        problems.append("stderr has a traceback")
    for line in out.splitlines():
        if line.startswith("left ") and Path(f"/proc/{line.split()[1]}").exists():
            problems.append(f"process {line.split()[1]} of a rank lives on")
    problems += [f"left behind: {trace}" for trace in sorted(left_since(before, within_s=row.gone_within_s))]
    return [*problems, f"stdout was: {out}", f"stderr was: {stderr}"] if problems else []


def left_since(before: set[str], *, within_s: float) -> set[str]:
    """Return what is there that was not there before, after it had this long to go."""
    deadline_s = time.monotonic() + within_s
    while (left := traces() - before) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return left


def _follow(row: Row, process: subprocess.Popen[bytes]) -> tuple[str, float]:
    """Read stdout to its end, acting when it is time; return it, and when the fault came."""
    assert process.stdout is not None
    lines: list[str] = []
    pids: list[int] = []
    fault_s = time.monotonic()
    while not process.stdout.closed and (line := process.stdout.readline().decode(errors="replace")):
        lines.append(line)
        if line.startswith("fault"):
            fault_s = time.monotonic()
        if line.startswith("up "):
            pids.append(int(line.split()[1]))
            if len(pids) == 2 and row.act is not None:
                fault_s = time.monotonic()
                row.act(Job(process, pids))
    return "".join(lines), fault_s


ROWS = (
    Row(
        name="a rank exits 3 after MPI_Finalize, the other finishes",
        program="MPI.Finalize()\nif rank == 1: sys.exit(3)\ntime.sleep(4)\nsay('done')",
        status=3,
        says=(f"rank 1 on {HOST} exited with status 3\n",),
        prints=("done",),
        within_s=60,
    ),
    Row(
        name="a rank exits 3 after MPI_Finalize, the other goes on past the grace",
        program="MPI.Finalize()\nif rank == 1:\n say('fault')\n sys.exit(3)\ntime.sleep(60)",
        words=("--kill-grace", "3"),
        status=3,
        says=(f"rank 1 on {HOST} exited with status 3\n",),
        within_s=8,
    ),
    Row(
        name="a rank calls MPI_Abort",
        program="world.Barrier()\nif rank == 1:\n say('fault')\n world.Abort(9)\nworld.Barrier()",
        status=9,
        says=(rf"rank 1 on {HOST} exited with status 9 while rank 0 was still in MPI \(MPI_Abort",),
    ),
    Row(
        name="a rank segfaults",
        program="if rank == 1:\n say('fault')\n os.kill(os.getpid(), 11)\nworld.Barrier()",
        status=139,
        says=(rf"rank 1 on {HOST} \(pid \d+\) was killed by SIGSEGV",),
    ),
    Row(
        name="a rank is killed from outside",
        program=_WAIT,
        act=kill_rank,
        status=137,
        says=(rf"rank \d on {HOST} \(pid \d+\) was killed by SIGKILL",),
    ),
    Row(
        name="a rank exits 0 without MPI_Finalize",
        program="world.Barrier()\nif rank == 1:\n say('fault')\n os._exit(0)\nworld.Barrier()",
        words=("--kill-grace", "3"),
        status=1,
        says=(rf"rank 1 on {HOST} exited with status 0 without MPI_Finalize while rank 0 was still in MPI",),
        within_s=8,
    ),
    Row(
        name="a rank exits before MPI_Init",
        mpi=False,
        words=("--pmi", "pmix"),
        program="if rank == 1:\n time.sleep(1)\n say('fault')\n sys.exit(4)\nfrom mpi4py import MPI",
        status=4,
        says=(rf"rank 1 on {HOST} exited with status 4",),
    ),
    Row(
        name="a rank exits 0 before MPI_Init",
        mpi=False,
        words=("--pmi", "pmix", "--kill-grace", "2"),
        program="if rank == 1:\n say('fault')\n sys.exit(0)\nfrom mpi4py import MPI",
        status=1,
        says=(rf"rank 1 on {HOST} exited with status 0 without MPI_Finalize while rank 0 was still in MPI",),
        within_s=12,
    ),
    Row(
        name="a rank fails, the other ignores SIGINT and SIGTERM",
        program=_STUBBORN + "world.Barrier()\nif rank == 1:\n say('fault')\n os.kill(os.getpid(), 11)\ntime.sleep(600)",
        status=139,
        says=("killed by SIGSEGV",),
        within_s=6,
    ),
    Row(
        name="ranks leave child processes behind",
        mpi=False,
        program=(
            "import subprocess\n"
            "subprocess.Popen(['sleep', '600'])\n"
            "subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=subprocess.DEVNULL)\n"
            "subprocess.Popen(['sh', '-c', 'sleep 600 & echo left $!; sleep 600 & echo left $!'],"
            " start_new_session=True, env={})\n"
        ),
        prints=("left ",),
        status=0,
        within_s=60,
    ),
    Row(
        name="a rank leaves a child behind that writes on and on",
        mpi=False,
        program="import subprocess\nsay('fault')\nrank or print('left', subprocess.Popen(['yes']).pid, flush=True)",
        status=0,
        within_s=10,
    ),
    Row(
        name="a rank is a shell script that is asked to end",
        mpi=False,
        program=_WRAPPED,
        act=to_rankmap(signal.SIGTERM),
        status=143,
        prints=("asked",),
    ),
    Row(
        name="the head hangs and a rank segfaults",
        program=_WAIT,
        act=stop_and_kill_a_rank(r"^\S+ -m rankmap\.runtime\.head"),
        status=123,
        says=(r"Dragon does not say how rank \d ended",),
        within_s=25,
    ),
    Row(
        name="SIGTERM to everything",
        program=(
            "def end(*_):\n time.sleep(1)\n say('saved')\n os._exit(0)\nsignal.signal(signal.SIGTERM, end)\n" + _WAIT
        ),
        act=signal_everything,
        status=143,
        says=("ended by SIGTERM",),
        prints=("saved\nsaved",),
    ),
    Row(
        name="Ctrl-C",
        program="signal.signal(signal.SIGTERM, lambda *_: (say('asked'), os._exit(0)))\n" + _WAIT,
        act=to_rankmap(signal.SIGINT),
        status=130,
        says=("ended by SIGINT",),
        prints=("asked",),
    ),
    Row(
        name="Ctrl-C to ranks that ignore it",
        program=_STUBBORN + _WAIT,
        act=to_rankmap(signal.SIGINT),
        status=130,
        says=("ended by SIGINT",),
    ),
    Row(
        name="Ctrl-C twice",
        program=_STUBBORN + _WAIT,
        act=to_rankmap(signal.SIGINT, signal.SIGINT),
        status=130,
        says=("ended by SIGINT",),
        within_s=2.5,
    ),
    Row(name="SIGTERM", program=_WAIT, act=to_rankmap(signal.SIGTERM), status=143, says=("ended by SIGTERM",)),
    Row(name="SIGHUP", program=_WAIT, act=to_rankmap(signal.SIGHUP), status=129, says=("ended by SIGHUP",)),
    Row(
        name="SIGKILL of rankmap",
        program=_STUBBORN + _WAIT,
        act=to_rankmap(signal.SIGKILL),
        status=-9,
        gone_within_s=30,
    ),
    Row(
        name="the time is over",
        program=_WAIT,
        words=("--timeout", "12"),
        status=124,
        says=(rf"--timeout 12 s reached, starting included: ranks 0-1 still ran on {HOST}",),
        within_s=20,
    ),
    Row(
        name="stdout is closed early",
        program="signal.signal(signal.SIGPIPE, signal.SIG_DFL)\nsay(f'up {os.getpid()}')\nwhile True: say('y')",
        act=close_stdout,
        status=141,
        silent=True,
    ),
    Row(
        name="the runtime dies",
        program=_WAIT,
        act=kill_process(r"^\S+ \S+dragon -s "),
        status=123,
        says=("the Dragon runtime ended under the job: dragon ended",),
    ),
    Row(
        name="the head dies",
        program=_WAIT,
        act=kill_process(r"^\S+ -m rankmap\.runtime\.head"),
        status=123,
        says=(r"the Dragon runtime ended under the job: (rankmap's head|its rankmap head) \(pid \d+\) ended",),
    ),
    Row(
        name="the keeper dies",
        program=_WAIT,
        act=kill_process(r"^\S+ -m rankmap\.runtime\.keeper"),
        status=123,
        says=(r"the Dragon runtime ended under the job: (rankmap's|its rankmap) keeper \(pid \d+\)",),
    ),
    Row(
        name="everything called dragon is killed, the keeper too",
        program=_WAIT,
        act=kill_everything_called_dragon,
        status=123,
        says=("the Dragon runtime ended under the job",),
    ),
    *(
        Row(
            name=f"a group service dies ({number})",
            program=_WAIT,
            act=kill_process("_dragon_native_python_process_main", number),
            status=123,
            says=(r"the Dragon runtime ended under the job: its Dragon group service \(pid \d+\) ended",),
        )
        for number in range(4)
    ),
)
