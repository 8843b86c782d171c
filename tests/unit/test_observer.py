from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.observe import Pages, ThreadObservation
from rankmap.runtime.observer import memory_policy_of, pages_of, threads_of

if TYPE_CHECKING:
    from pathlib import Path


# A real one, of a program whose name has blanks and brackets in it: utime 3, stime 4, last on CPU 5.
STAT = f"9 (a) R (b) S 1 9 9 0 -1 4194304 96 0 0 0 3 4 0 0 20 0 1 0 99 8 0 {2**64 - 1} 1 1{' 0' * 10} 17 5 0 0 0 0 0\n"


def fake(proc: Path, **status: str) -> None:
    """Make a /proc with process 7 whose threads (``t8="text"``) have these status files."""
    for name, text in status.items():
        (proc / "7" / "task" / name[1:]).mkdir(parents=True)
        (proc / "7" / "task" / name[1:] / "status").write_text(text)
        (proc / "7" / "task" / name[1:] / "stat").write_text(STAT)


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
    fake(
        tmp_path,
        t10="Name:\tx\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1,64\n",
        t9="Name:\ty\nCpus_allowed_list:\t5\n",
        t8="",
    )
    (tmp_path / "7" / "task" / "11").mkdir()
    assert threads_of(7, proc=tmp_path) == (
        ThreadObservation(tid=9, cpus=CpuSet.parse("5"), state="S", ticks=7, last_cpu=5),
        ThreadObservation(tid=10, cpus=CpuSet.parse("0-1,64"), state="S", ticks=7, last_cpu=5),
    )
    assert threads_of(8, proc=tmp_path) == ()


def test_a_thread_that_computes_is_told_from_one_that_sleeps() -> None:
    """By its state and the clock ticks that it has run for; it is on one of its CPUs."""

    def this_thread() -> ThreadObservation:
        return next(thread for thread in threads_of(os.getpid()) if thread.tid == threading.get_native_id())

    before = this_thread()
    while (now := this_thread()).ticks == before.ticks:
        pass
    assert ("R", True, True) == (now.state, now.ticks > before.ticks, now.last_cpu in {*now.cpus})
    with subprocess.Popen(["sleep", "60"]) as process:
        while threads_of(process.pid)[0].state != "S":
            pass
        process.kill()


@pytest.mark.parametrize(
    ("line", "policy"),
    [
        ("5630a59d0000 default file=/usr/bin/head mapped=2 N0=2\n", "default"),
        ("5630a59d0000 bind:0-1 file=/usr/bin/head\nother local\n", "bind:0-1"),
        ("5630a59d0000 prefer:2 anon=1\n", "preferred:2"),
        ("5630a59d0000 prefer (many):0-1 file=/usr/bin/head mapped=2\n", "preferred:0-1"),
        ("5630a59d0000 prefer (many):3\n", "preferred:3"),
        ("5630a59d0000 local file=/usr/bin/head\n", "local"),
        ("5630a59d0000 interleave:0-3 anon=1\n", "interleave:0-3"),
        ("5630a59d0000 interleave=static:0,2 anon=1\n", "interleave:0,2"),
        ("5630a59d0000 prefer (many)=relative|balancing:0-1 anon=1\n", "preferred:0-1"),
        ("5630a59d0000 bind=:0-1 anon=1\n", "bind:0-1"),
        ("5630a59d0000 weighted interleave:0-3 anon=1\n", "weighted interleave:0-3"),
        (f"5630a59d0000 {('interleave:' + '10,' * 20)[:63]} anon=1\n", ""),  # cut off by the kernel
        ("", ""),
    ],
)
def test_the_memory_policy_is_that_of_the_first_mapping(line: str, policy: str, tmp_path: Path) -> None:
    """In the words of a plan; of a process that has ended nothing."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "numa_maps").write_text(line)
    assert policy == memory_policy_of(7, proc=tmp_path)
    assert memory_policy_of(8, proc=tmp_path) == ""


NUMA_MAPS = """\
55b28f34a000 default file=/usr/bin/head mapped=2 N0=2 kernelpagesize_kB=4
55b28f355000 default file=/usr/bin/a\\040anon=1:1 anon=1 dirty=1 active=0 N0=2 N1=2 kernelpagesize_kB=4
7f0000000000 default heap anon=6 dirty=6 N0=2 N3=4 kernelpagesize_kB=4
7f1000000000 bind:3 file=/anon_hugepage\\040(deleted) huge anon=2 dirty=2 N3=2 kernelpagesize_kB=2048
7f2000000000 bind=static:0-1,3 anon=1 dirty=1 N2=1 kernelpagesize_kB=4
7f3000000000 prefer (many):1 anon=1 dirty=1 N1=1 kernelpagesize_kB=4
7f4000000000 weighted interleave:0-3 stack anon=1 dirty=1 N0=1 kernelpagesize_kB=4
7f5000000000 default file=/dev/shm/x dirty=9 N1=9 kernelpagesize_kB=4
7f6000000000 default
"""


def test_pages_are_counted_by_domain_in_bytes(tmp_path: Path) -> None:
    """Private ones only, huge ones as large as they are; apart, those that are where their mapping's policy says."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "numa_maps").write_text(NUMA_MAPS)
    pages = pages_of(7, proc=tmp_path)
    assert pages is not None
    page, huge = 4096, 2 << 20
    assert {0: page * 7 // 2, 1: page * 3 // 2, 2: page, 3: 4 * page + 2 * huge} == pages.resident
    assert {0: page, 1: page, 3: 2 * huge} == {domain: size for domain, size in pages.chosen.items() if size}
    assert pages_of(8, proc=tmp_path) is None
    (tmp_path / "7" / "numa_maps").write_text("")
    assert pages_of(7, proc=tmp_path) is None


def test_the_memory_of_this_process_is_seen() -> None:
    """64 MiB more than before, wherever they are; nothing is said where the kernel has no numa_maps."""
    before = pages_of(os.getpid())
    if before is None:
        pytest.skip("this kernel has no /proc/PID/numa_maps")
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = 1
        after = pages_of(os.getpid())
    assert isinstance(after, Pages)
    grown = sum(after.resident.values()) - sum(before.resident.values())
    assert 60 << 20 < grown < 80 << 20
