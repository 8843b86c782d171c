from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from rankmap.runtime.processes import (
    Found,
    carrying,
    descendants,
    end_all,
    everything,
    send_signal,
)
from tests.children import LIMIT_S, child, family, has_ended, python

if TYPE_CHECKING:
    from pathlib import Path

ORPHAN = """
import os, signal, subprocess, sys
from rankmap.runtime.processes import adopt_orphans, descendants
if sys.argv[1] == "adopt":
    adopt_orphans()
command = ["sh", "-c", "setsid sleep 60 > /dev/null & echo $!"]
orphan = int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
try:
    print(orphan in [found.pid for found in descendants(os.getpid())])
finally:
    os.kill(orphan, signal.SIGKILL)
"""
FIRST_THREAD_ENDS = """
import ctypes, os, sys, threading, time
def other():
    while open(f"/proc/self/task/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.001)
    print("up", flush=True)
    sys.stdin.read()
threading.Thread(target=other).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def found_of(pid: int) -> Found:
    """Return this process as it is found."""
    return next(found for found in everything() if found.pid == pid)


def test_this_process_is_found_with_its_parent() -> None:
    """As getpid(2) and its family say."""
    assert (os.getpid(), os.getppid()) == found_of(os.getpid())[:2]


def test_descendants_are_children_and_theirs_without_the_root() -> None:
    """However deep; siblings and parents are none."""
    with child("sh", "-c", "sh -c 'sleep 60 & echo $!; wait' & echo $!; wait") as root, child("sleep", "60") as sibling:
        below = {int(root.hear()), int(root.hear())}
        assert below == {found.pid for found in descendants(root.pid)}
        assert below == {found.pid for found in descendants(root.pid, everything())}
        ours = {found.pid for found in descendants(os.getpid())}
        assert {root.pid, sibling.pid, *below} <= ours
        assert os.getpid() not in ours


def test_a_process_that_has_started_nothing_has_no_descendants() -> None:
    """Nor has one that is not there."""
    with child("sleep", "60") as alone:
        assert descendants(alone.pid) == []
        assert descendants(alone.pid, []) == []


@pytest.mark.parametrize(("word", "kept"), [("adopt", "True"), ("let go", "False")])
def test_orphans_stay_descendants_of_whoever_adopts(word: str, kept: str) -> None:
    """Also those in a session of their own; without adoption they are lost."""
    with python(ORPHAN, word) as parent:
        assert (kept, 0) == (parent.hear(), parent.end())


def test_descendants_are_those_that_run() -> None:
    """Children of children count, zombies do not."""
    with child("sh", "-c", "sh -c 'sleep 60 & echo up; wait' & wait") as leader:
        leader.hear()
        below = descendants(leader.pid)
        assert (2, False) == (len(below), leader.pid in {found.pid for found in below})
        os.killpg(leader.pid, signal.SIGKILL)
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
        assert leader.pid not in {found.pid for found in everything()}


def test_a_process_whose_first_thread_has_ended_still_runs() -> None:
    """The kernel calls it a zombie, with more than one thread."""
    with python(FIRST_THREAD_ENDS) as process:
        assert process.hear() == "up"
        assert [process.pid] == [found.pid for found in family(process.pid)]


def test_a_process_whose_name_looks_like_fields_is_read_right(tmp_path: Path) -> None:
    """The name in /proc/PID/stat may hold blanks and brackets."""
    odd = tmp_path / "a) R 1"
    odd.symlink_to("/bin/sleep")
    with child(str(odd), "60") as process:
        assert [(process.pid, os.getpid())] == [found[:2] for found in family(process.pid)]


def test_carrying_finds_exactly_this_variable_with_this_value() -> None:
    """Not a longer value, not a longer name, and not the one who asks."""
    job = f"test-{os.getpid()}"
    asks = (
        "from rankmap.runtime.processes import carrying\n"
        f"print(*(found.pid for found in carrying('RANKMAP_JOB', '{job}')))"
    )
    with (
        child("sleep", "60", env={"A": "1", "RANKMAP_JOB": job, "Z": "1"}) as ours,
        child("sleep", "60", env={"RANKMAP_JOB": f"{job}0"}),
        child("sleep", "60", env={"OLD_RANKMAP_JOB": job}),
    ):
        assert [ours.pid] == [found.pid for found in carrying("RANKMAP_JOB", job)]
        assert carrying("RANKMAP_JOB", f"no-{job}") == []
        command = ("env", f"RANKMAP_JOB={job}", f"PYTHONPATH={':'.join(sys.path)}", sys.executable, "-c", asks)
        with child(*command) as asker:
            assert str(ours.pid) == asker.hear()


def test_a_signal_reaches_the_process_that_was_found_and_no_later_one_of_its_pid() -> None:
    """The start time tells them apart."""
    with child("sleep", "60") as process:
        found = found_of(process.pid)
        send_signal(found._replace(start=found.start - 1), signal.SIGKILL)
        send_signal(found, signal.SIGTERM)
        assert process.process.wait(LIMIT_S) == -signal.SIGTERM
    send_signal(found, signal.SIGKILL)


def test_ending_all_goes_on_until_nothing_is_found() -> None:
    """Signals that the processes ignore do not save them; a zombie counts as ended although nobody has reaped it."""
    script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; exec sleep 60' & echo $$; wait"
    with child("sh", "-c", script) as root:
        pidfds = [os.pidfd_open(int(root.hear())) for _ in range(2)]
        try:
            assert end_all(lambda: family(root.pid), timeout_s=LIMIT_S)
            assert has_ended(pidfds, limit_s=0)
        finally:
            for pidfd in pidfds:
                os.close(pidfd)
        assert root.process.returncode is None


def test_ending_nothing_is_done_at_once() -> None:
    """Without a look at the clock."""
    assert end_all(list, timeout_s=-1)


def test_ending_what_does_not_end_is_given_up() -> None:
    """The caller gets its turn between the looks."""
    turns: list[int] = []
    another = found_of(os.getpid())._replace(start=-1)
    assert not end_all(lambda: [another], timeout_s=0.05, meanwhile=lambda: turns.append(1))
    assert turns
