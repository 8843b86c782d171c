"""Looks at running ranks from outside: their threads, what the kernel lets each use, and where their memory is."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from rankmap.cpuset import CpuSet
from rankmap.observe import Pages, ThreadObservation

__all__ = ["memory_policy_of", "pages_of", "threads_of"]

_FIELD = b"\nCpus_allowed_list:"
_LINE_BYTES = 512
_GONE = (FileNotFoundError, ProcessLookupError)
# What mpol_to_str of Linux (mm/mempolicy.c) writes: local, bind:0-1, bind=static|balancing:0, bind=:0 (older kernels),
# prefer (many):0-1, weighted interleave:0-3.
_POLICY = re.compile(r"\S+ (((?:weighted )?[a-z]+)(?: \(many\))?(?:=[a-z|]*)?(?::([\d,-]+))?)(?: |\n|$)")
_CUT_CHARACTERS = 63  # show_numa_map has room for 64: longer ones are cut off, maybe inside a number


def _read(path: str, n_bytes: int = -1) -> bytes:
    """Return (the first bytes of) this file of /proc: without pathlib and buffers, at a third of the cost."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read(n_bytes) or b""


def threads_of(pid: int, *, proc: Path = Path("/proc")) -> tuple[ThreadObservation, ...]:
    """Return the threads of this process, by thread id; empty when it has ended.

    A thread that ends while it is looked at is left out.

    Source: proc_pid_status(5), Cpus_allowed_list; proc_pid_stat(5), fields 3 (state), 14 (utime), 15 (stime) and 39
    (processor).
    """
    tasks = f"{proc}/{pid}/task"
    try:
        tids = sorted(map(int, os.listdir(tasks)))  # noqa: PTH208 - see _read
    except _GONE:
        return ()
    threads = []
    for tid in tids:
        try:
            status, stat = _read(f"{tasks}/{tid}/status"), _read(f"{tasks}/{tid}/stat")
        except _GONE:
            continue
        cpus = status.partition(_FIELD)[2].partition(b"\n")[0].decode().strip()
        fields = stat.rpartition(b")")[2].split()  # from field 3 on: a name may have blanks and brackets in it
        if cpus and fields:
            threads.append(
                ThreadObservation(
                    tid=tid,
                    cpus=CpuSet.parse(cpus),
                    state=fields[0].decode(),
                    ticks=int(fields[11]) + int(fields[12]),
                    last_cpu=int(fields[36]),
                )
            )
    return tuple(threads)


def memory_policy_of(pid: int, *, proc: Path = Path("/proc")) -> str:
    """Return the memory policy of this process as a plan writes it; "" when it has ended, or the kernel does not say.

    Flags (``bind=balancing:0``) are left out: the domains are the same, whatever the kernel does among them or when the
    cpuset changes.

    Source: numa_maps(5): after the address a line has the policy of a mapping, the first that of the process.
    """
    try:
        line = _read(f"{proc}/{pid}/numa_maps", _LINE_BYTES).partition(b"\n")[0].decode(errors="replace")
    except OSError:
        return ""
    mode, domains = _policy(line)
    return f"{mode}:{domains}" if domains else mode


def _policy(line: str) -> tuple[str, CpuSet]:
    """Return the mode, as a plan calls it, and the domains of the policy in a line of numa_maps; "" where it is cut."""
    match = _POLICY.match(line)
    if match is None or len(match[1]) >= _CUT_CHARACTERS:
        return "", CpuSet()
    mode = "preferred" if match[2] == "prefer" else match[2]
    return mode, CpuSet.parse(match[3] or "")


def pages_of(pid: int, *, proc: Path = Path("/proc")) -> Pages | None:
    """Return where the private memory of this process is; None when it has ended, or the kernel does not say.

    In a mapping that has pages of a file too, the private ones are taken to be spread as all are.

    What it costs: the kernel walks the page tables of the whole process for it, 10 to 20 ms a GiB of 4 KiB pages
    (``make bench`` measures it), and next to nothing for huge pages. Meanwhile the process can compute and touch
    memory, but waits where it maps and unmaps some.

    Source: numa_maps(5): ``anon`` are the private pages, ``N0`` all pages of the mapping in domain 0, in units of
    ``kernelpagesize_kB``; Linux, fs/proc/task_mmu.c, show_numa_map.
    """
    resident, chosen = Counter[int](), Counter[int]()
    page_kib = os.sysconf("SC_PAGE_SIZE") >> 10
    try:
        with (proc / str(pid) / "numa_maps").open(errors="replace") as file:
            for line in file:
                if " anon=" not in line:
                    continue
                numbers = dict(word.split("=", 1) for word in line.split()[2:] if "=" in word)
                pages = {int(name[1:]): int(n) for name, n in numbers.items() if name[0] == "N" and name[1:].isdigit()}
                n_bytes = int(numbers.get("kernelpagesize_kB", page_kib)) << 10
                _, named = _policy(line)
                for domain, n_pages in pages.items():
                    private = n_pages * n_bytes * int(numbers["anon"]) // sum(pages.values())
                    resident[domain] += private
                    chosen[domain] += private if domain in named else 0
    except OSError:
        return None
    return Pages(resident=resident, chosen=chosen) if resident else None
