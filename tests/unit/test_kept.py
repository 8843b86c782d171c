"""Unit tests of rankmap.runtime.kept: a process of its own that keeps what is below it, and others that it may end."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rankmap.cpuset import CpuSet
from rankmap.runtime.kept import CLEANED, Kept
from rankmap.runtime.processes import JOB_VARIABLE
from rankmap.runtime.services import RUNTIME, Service
from rankmap.runtime.shared_memory import job_directory
from tests.children import LIMIT_S, child, has_ended, python

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.children import Child

KEEPS = """
import json, os, subprocess, sys
from rankmap.runtime import processes
from rankmap.runtime.kept import Kept
from rankmap.runtime.processes import adopt_orphans

processes._WIND_DOWN_S = 0.1
adopt_orphans()
kept = Kept(sys.argv[1], runtime_stays=len(sys.argv) > 3, above=json.loads(sys.argv[2]))
started = []

def start(*words):
    started.append(subprocess.Popen(words, stdout=subprocess.PIPE))
    return [started[-1].pid, started[-1].stdout.readline().decode().strip()]

def expect(*words):
    start(*words)
    kept.expect(started[-1])

def status(reap):
    pid = started[-1].pid
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if reap:
        kept.reap()
    return kept.status(pid)

calls = {
    "start": start,
    "expect": expect,
    "status": status,
    "processes": lambda: [one.pid for one in kept.processes()],
    "services": lambda *ranks: kept.services(ranks),
    "left": lambda *services: [one.pid for one in kept.left_by_ranks(services)],
    "wait": lambda timeout_s: kept.wait(timeout_s=timeout_s),
    "wind down": lambda head_pid: kept.wind_down(head_pid=head_pid),
    "end": kept.end,
}
print(json.dumps(os.getpid()), flush=True)
for line in sys.stdin:
    what, *words = json.loads(line)
    print(json.dumps(calls[what](*words)), flush=True)
"""
CLEANS = """
import sys
from pathlib import Path
from rankmap.runtime.kept import clean_up_after
print(clean_up_after(Path(sys.argv[1]), above=()), flush=True)
"""
SLEEPS = "echo up; exec sleep 600"
ENDS_WHEN_TOLD = (
    f"exec {sys.executable} -c 'import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); "
    'print("up", flush=True); signal.pause()\''
)
MAPS = """
import mmap, os, sys, time
with open(sys.argv[1], "w+b") as file:
    file.truncate(4096)
    held = mmap.mmap(file.fileno(), 4096)
print("up", flush=True)
time.sleep(600)
"""


class Keeper:
    """A process that keeps a job's processes."""

    def __init__(self, process: Child, job: str) -> None:
        self.process = process
        self.job = job
        self.pid = json.loads(process.hear())

    def do(self, what: str, *words: object) -> Any:  # noqa: ANN401 - whatever the call returns
        """Have it do this."""
        self.process.say(json.dumps([what, *words]))
        return json.loads(self.process.hear())

    def start(self, script: str = SLEEPS) -> int:
        """Have it start this shell script; return what that says first, or its pid."""
        pid, said = self.do("start", "sh", "-c", script)
        return pid if said == "up" else int(said)


@contextmanager
def keeping(*words: str) -> Iterator[Keeper]:
    """Start one for a job that nobody else has."""
    job = f"rankmap-{uuid.uuid4()}"
    with python(KEEPS, job, "[]", *words) as process:
        yield Keeper(process, job)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """Return one that has nothing above it."""
    with keeping() as made:
        yield made


@contextmanager
def marked(job: str, script: str = SLEEPS) -> Iterator[Child]:
    """Start a process with the job's mark that is not below the keeper."""
    with child("sh", "-c", script, env={**os.environ, JOB_VARIABLE: job}) as process:
        assert "up" == process.hear()
        yield process


def test_a_jobs_processes_are_those_below_and_those_with_its_mark(keeper: Keeper) -> None:
    """Wherever Dragon's launcher has put them; also one whose parent is gone. Nobody else's, nor the keeper itself."""
    assert [] == keeper.do("processes")
    below = keeper.start()
    orphan = keeper.start("sleep 600 >/dev/null & echo $!")
    with marked(keeper.job) as elsewhere, marked(f"{keeper.job}x"), child("sleep", "600"):
        assert {below, orphan, elsewhere.pid} == set(keeper.do("processes"))


def test_all_of_them_are_ended_and_nobody_else(keeper: Keeper) -> None:
    """At once, also those that would not hear a gentler signal."""
    with ExitStack() as stack:
        deaf = stack.enter_context(marked(keeper.job, "trap '' TERM INT HUP; echo up; sleep 600; sleep 600"))
        other = stack.enter_context(marked(f"{keeper.job}x"))
        pids = [keeper.start(), keeper.start("sleep 600 >/dev/null & echo $!"), deaf.pid]
        pidfds = []
        for pid in pids:
            pidfds.append(os.pidfd_open(pid))
            stack.callback(os.close, pidfds[-1])
        assert [] == keeper.do("end")
        assert has_ended(pidfds)
        assert [] == keeper.do("processes")
        assert other.process.poll() is None


def test_what_the_keeper_was_started_by_is_left() -> None:
    """What ssh and the batch system have started here may have the job's mark too: it is not ended."""
    job = f"rankmap-{uuid.uuid4()}"
    with marked(job) as above, python(KEEPS, job, json.dumps([above.pid])) as process:
        keeper = Keeper(process, job)
        assert [] == keeper.do("processes")
        assert [] == keeper.do("end")
        assert above.process.poll() is None


def test_shared_memory_of_the_job_goes_with_it(keeper: Keeper) -> None:
    """What its processes map there, of the names that MPI and Dragon give; another's stays."""
    ours, theirs = (Path("/dev/shm") / f"DD{uuid.uuid4()}" for _ in range(2))  # noqa: S108 - where it has to be
    try:
        with python(MAPS, str(theirs)) as other:
            assert "up" == other.hear()
            _, said = keeper.do("start", sys.executable, "-c", MAPS, str(ours))
            assert ("up", True, True) == (said, ours.exists(), theirs.exists())
            assert [] == keeper.do("end")
            assert (False, True) == (ours.exists(), theirs.exists())
    finally:
        for file in (ours, theirs):
            file.unlink(missing_ok=True)


def test_after_an_agent_that_was_killed_another_leaves_nothing(tmp_path: Path) -> None:
    """What the job had made before there was somebody to clean up goes too; what is another's stays."""
    control = tmp_path / f"rankmap-{uuid.uuid4()}"
    control.mkdir()
    job_directory(control.name).mkdir()
    ours, theirs = (Path("/dev/shm") / f"DD{uuid.uuid4()}" for _ in range(2))  # noqa: S108 - where it has to be
    marked_environment = {**os.environ, JOB_VARIABLE: control.name}
    try:
        with (
            child(sys.executable, "-c", MAPS, str(ours), env=marked_environment) as one,
            python(MAPS, str(theirs)) as other,
        ):
            assert ("up", "up") == (one.hear(), other.hear())
            with python(CLEANS, str(control)) as cleaner:
                assert f"{CLEANED} {os.uname().nodename}" == cleaner.hear()
            assert (-9, None) == (one.process.wait(), other.process.poll())
            assert (False, True) == (ours.exists(), theirs.exists())
        assert (False, False) == (control.exists(), job_directory(control.name).exists())
    finally:
        for file in (ours, theirs):
            file.unlink(missing_ok=True)


def test_what_ends_by_itself_is_waited_for(keeper: Keeper, tmp_path: Path) -> None:
    """As long as asked, and no longer than it takes."""
    os.mkfifo(tmp_path / "go")
    pid = keeper.start(f"echo up; read go < {tmp_path}/go")
    keeper.do("wait", 0.05)
    assert [pid] == keeper.do("processes")
    (tmp_path / "go").write_text("go\n")
    keeper.do("wait", 600)
    assert [] == keeper.do("processes")


def test_services_are_the_jobs_processes_that_are_no_ranks(keeper: Keeper) -> None:
    """With the agent; what is neither rank nor service later was left behind."""
    rank, service, left = keeper.start(), keeper.start(), keeper.start()
    assert {keeper.pid, service, left} == set(keeper.do("services", rank))
    assert {rank, left} == set(keeper.do("left", keeper.pid, service))


def test_a_runtime_that_stays_is_a_service_and_is_not_ended() -> None:
    """Its local services lead the process group of all that they start; what ranks have left behind goes at once."""
    with keeping("stays") as keeper, marked(keeper.job) as rank, marked(keeper.job, ENDS_WHEN_TOLD) as head:
        assert {keeper.pid, os.getpgid(keeper.pid), head.pid} == set(keeper.do("services", rank.pid))
        with child("sleep", "600") as other:
            keeper.do("wind down", head.pid)
            assert [] == keeper.do("processes")
            assert [] == keeper.do("end")
            assert other.process.poll() is None
        assert (-signal.SIGKILL, 3) == (rank.process.wait(LIMIT_S), head.process.wait(LIMIT_S))


@pytest.mark.parametrize("reaped", [False, True])
@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9)])
def test_how_an_expected_child_ends_is_known(keeper: Keeper, script: str, status: int, *, reaped: bool) -> None:
    """Whether or not all that have ended were waited for meanwhile."""
    keeper.do("expect", "sh", "-c", f"exec >&-; {script}")
    assert status == keeper.do("status", reaped)


def test_the_agent_is_not_watched_nor_what_is_started_for_a_moment() -> None:
    """Of the end of others the job has to know."""
    kept = Kept("rankmap-x", runtime_stays=False)

    def service(pid: int, name: str) -> Service:
        return Service(pid=pid, name=name, cpus=CpuSet(), idle=False)

    group = service(3, "Dragon group service")
    there = [service(os.getpid(), "rankmap agent"), service(2, RUNTIME), service(os.getpgid(0), RUNTIME), group]
    assert [group] == kept.vital(there)
    assert there[2:] == Kept("rankmap-x", runtime_stays=True).vital(there)
