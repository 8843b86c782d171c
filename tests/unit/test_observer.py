from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.observe import ThreadObservation
from rankmap.runtime.observer import activity_of, memory_policy_of, threads_of

if TYPE_CHECKING:
    from pathlib import Path


def fake(proc: Path, **status: str) -> None:
    """Make a /proc with process 7 whose threads (``t8="text"``) have these status files."""
    for name, text in status.items():
        (proc / "7" / "task" / name[1:]).mkdir(parents=True)
        (proc / "7" / "task" / name[1:] / "status").write_text(text)


def test_every_thread_of_a_process_is_seen_with_its_cpus() -> None:
    """The kernel's list of this very process is what sched_getaffinity says, thread by thread."""
    go = threading.Event()
    threads = [threading.Thread(target=go.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen = threads_of(os.getpid())
    go.set()
    for thread in threads:
        thread.join()
    expected = {thread.native_id for thread in threads} | {threading.get_native_id()}
    assert expected <= {thread.tid for thread in seen}
    assert {thread.cpus for thread in seen} == {CpuSet.of(os.sched_getaffinity(0))}


def test_a_process_that_has_ended_has_no_threads() -> None:
    """Looking too late is no error."""
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    child.wait()
    assert threads_of(child.pid) == ()


def test_threads_come_by_number_and_those_that_end_meanwhile_are_left_out(tmp_path: Path) -> None:
    """A task directory without status file, or without the field, is a thread that is going."""
    fake(tmp_path, t10="Name:\tx\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1,64\n", t9="Cpus_allowed_list:\t5\n", t8="")
    (tmp_path / "7" / "task" / "11").mkdir()
    assert threads_of(7, proc=tmp_path) == (
        ThreadObservation(tid=9, cpus=CpuSet.parse("5")),
        ThreadObservation(tid=10, cpus=CpuSet.parse("0-1,64")),
    )
    assert threads_of(8, proc=tmp_path) == ()


def test_a_thread_that_computes_is_told_from_one_that_sleeps() -> None:
    """By its state and the clock ticks that it has run for."""
    before = activity_of(os.getpid(), threading.get_native_id())
    while (now := activity_of(os.getpid(), threading.get_native_id()))[1] == before[1]:
        pass
    assert ("R", True) == (now[0], now[1] > before[1])
    with subprocess.Popen(["sleep", "60"]) as process:
        while activity_of(process.pid, process.pid)[0] != "S":
            pass
        process.kill()
    assert ("X", 0) == activity_of(process.pid, process.pid)


@pytest.mark.parametrize(
    ("line", "policy"),
    [
        ("5630a59d0000 default file=/usr/bin/head mapped=2 N0=2\n", "default"),
        ("5630a59d0000 bind:0-1 file=/usr/bin/head\nother local\n", "bind:0-1"),
        ("5630a59d0000 prefer:2 anon=1\n", "preferred:2"),
        ("", ""),
    ],
)
def test_the_memory_policy_is_that_of_the_first_mapping(line: str, policy: str, tmp_path: Path) -> None:
    """In the words of a plan; of a process that has ended nothing."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "numa_maps").write_text(line)
    assert policy == memory_policy_of(7, proc=tmp_path)
    assert memory_policy_of(8, proc=tmp_path) == ""
