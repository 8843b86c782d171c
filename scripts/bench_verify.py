"""The part of bench.py that measures verification: what looking at running ranks costs the supervisor.

The launcher is all that works for it, so its CPU time is measured: times of whole jobs differ more from run to run.
"""

from __future__ import annotations

import mmap
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.runtime.observer import pages_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["verification"]

Row = tuple[str, str, str, str, str, str]
BIN = Path(sys.executable).parent
N_RANKS, N_THREADS, SECONDS = 8, 4, 20
GIB = 1 << 30
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROGRAM = """
import os, sys, threading, time
end_s = time.monotonic() + float(sys.argv[1])
first = os.environ["RANKMAP_RANK"] == "0"
if first:
    print("start", flush=True)
for _ in range(int(sys.argv[2]) - 1):
    threading.Thread(target=time.sleep, args=(float(sys.argv[1]) + 2,)).start()
time.sleep(end_s - time.monotonic())
if first:
    print("end", flush=True)
"""


def verification(repeats: int) -> list[Row]:
    """Measure a job of 20 s without any check, with all, and with --watch 1 too, half as often as asked for."""
    modes = {"off": ["--verify", "off"], "all": [], "watched": ["--watch", "1"]}
    rounds = [{name: _launcher_cpu_s(words) for name, words in modes.items()} for _ in range(max(1, repeats // 2))]
    off_s, all_s, watched_s = (statistics.median(one[name] for one in rounds) for name in modes)
    per_rank_s, share = (all_s - off_s) / N_RANKS, (watched_s - off_s) / SECONDS
    what = f"launcher's CPU, {N_RANKS} ranks of {N_THREADS} threads, {SECONDS} s"
    return [
        (
            f"{what}: all checks, per rank",
            f"{per_rank_s * 1e3:.1f} ms more",
            f"{off_s:.2f} s (--verify off)",
            "",
            "30 ms",
            _word(holds=per_rank_s <= 0.030),  # noqa: PLR2004
        ),
        (
            f"{what}: --watch 1, of a core",
            f"{share:.2%} more",
            f"{off_s:.2f} s (--verify off)",
            "",
            "5 %",
            _word(holds=share <= 0.05),  # noqa: PLR2004
        ),
        ("looking where 1 GiB of 4 KiB pages is, CPU", f"{_pages_s() * 1e3:.0f} ms", "", "", "", ""),
    ]


def _launcher_cpu_s(words: Sequence[str]) -> float:
    """Return the CPU time that `rankmap launch` itself, without what it starts, uses while its ranks run."""
    command = [str(BIN / "rankmap"), "launch", "-n", str(N_RANKS), "--oversubscribe", "--pmi", "none", *words, "--"]
    program = [sys.executable, "-c", PROGRAM, str(SECONDS), str(N_THREADS)]
    with subprocess.Popen([*command, *program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as job:
        used_s = []
        for word in (b"start\n", b"end\n"):
            assert job.stdout is not None  # noqa: S101 - for the type checker
            if job.stdout.readline() != word:
                msg = f"{command} ended too early"
                raise RuntimeError(msg)
            fields = Path(f"/proc/{job.pid}/stat").read_bytes().rpartition(b")")[2].split()
            used_s.append((int(fields[11]) + int(fields[12])) / TICKS_PER_S)
        return used_s[1] - used_s[0]


def _pages_s() -> float:
    """Return the CPU time that it takes to look at this process when it has 1 GiB of small pages."""
    with mmap.mmap(-1, GIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for offset in range(0, GIB, mmap.PAGESIZE):
            memory[offset] = 1
        start_s = time.process_time()
        pages_of(os.getpid())
        return time.process_time() - start_s


def _word(*, holds: bool) -> str:
    return "ok" if holds else "MISSED"
