"""The part of bench.py that measures planning at scale: PRRTE's mapper beside ours, and limits of our own."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rankmap.assignment import assign
from rankmap.cpuset import CpuSet
from rankmap.discovery import hwloc
from rankmap.discovery.machine import load_all
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.topology import Allocation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["scale"]

Row = tuple[str, str, str, str, str, str]
BIN = Path(sys.executable).parent
LARGEST = Path(__file__).parents[2] / "shared" / "topologies" / "epyc9654-2s-384pu-noNUMA.xml"
NODE = "pack:2 numa:2 core:16 pu:2"
LARGE_NODE = "pack:2 numa:4 core:24 pu:2"
N_NODES, N_RANKS = 1024, 65536
MIB = 1 << 20


def scale(repeats: int) -> list[Row]:
    """Measure planning: 65,536 ranks beside prterun, 1,048,576 ranks, 1,000 shapes, the largest recorded node."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        node = folder / "node.xml"
        node.write_text(hwloc.synthetic_xml(NODE, os.environ), encoding="utf-8")
        return [
            *_beside_prterun(folder, node, repeats),
            _in_process(node, repeats),
            _a_million(folder, node),
            _many_shapes(),
            _assignment(repeats),
            _with_gpus(repeats),
            _one_large_node(folder, repeats),
        ]


def _beside_prterun(folder: Path, node: Path, repeats: int) -> list[Row]:
    (folder / "hosts").write_text("".join(f"n{i:04} slots=64\n" for i in range(N_NODES)), encoding="utf-8")
    words = ["-n", str(N_RANKS), "--map-by", "core", "--rank-by", "fill", "--bind-to", "core"]
    peer = [str(BIN / "prterun"), "--allow-run-as-root", "--rtos", "donotlaunch", "--display", "bind"]
    peer += ["--prtemca", "hwloc_use_topo_file", str(node), "--hostfile", "hosts", *words, "true"]
    ours = [str(BIN / "rankmap"), "plan", *words, "--machine", f"{N_NODES}x{node}", "-o", "plan", "--format"]
    commands = [peer, [*ours, "json"], [*ours, "ranks"]]
    rounds = [[_cpu_seconds(command, folder) for command in commands] for _ in range(repeats)]
    peer_s, json_s, ranks_s = (statistics.median(times) for times in zip(*rounds, strict=True))
    return [
        _row(f"CPU time, {N_RANKS} ranks on {N_NODES} nodes, --format {form}", own_s, peer_s, limit)
        for form, own_s, limit in (("json", json_s, 20), ("ranks", ranks_s, 8))
    ]


def _row(what: str, own_s: float, peer_s: float, limit: int) -> Row:
    holds = _word(holds=peer_s >= limit * own_s)
    return (what, f"{own_s:.2f} s", f"{peer_s:.2f} s (prterun)", f"{peer_s / own_s:.0f} times less", f"{limit}", holds)


def _cpu_seconds(command: Sequence[str], folder: Path) -> float:
    """Return the CPU time of this command, which must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    prefixes = dict.fromkeys(("PRTE_PREFIX", "PMIX_PREFIX", "OPAL_PREFIX"), sys.prefix)
    env = {**os.environ, **prefixes, "TMPDIR": str(folder)}
    subprocess.run(command, check=True, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _in_process(node: Path, repeats: int) -> Row:
    allocation = load_all([f"{N_NODES}x{node}"], environ=os.environ)
    spec = request(n_ranks=N_RANKS, map_by="core")
    own_s = statistics.median(_timed(lambda: plan(allocation, spec)) for _ in range(repeats))
    return ("plan() alone, the same ranks", f"{own_s * 1e3:.1f} ms", "-", "-", "10 ms", _word(holds=own_s <= 0.010))  # noqa: PLR2004


def _a_million(folder: Path, node: Path) -> Row:
    command = [str(BIN / "rankmap"), "plan", "-n", str(1 << 20), "--machine", f"16384x{node}", "--format", "json"]
    code = (
        "import resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, *command], check=True, cwd=folder, capture_output=True, text=True)
    own_s, peak_bytes = map(float, run.stdout.split())
    value = f"{own_s:.2f} s, {peak_bytes / MIB:.0f} MiB"
    holds = _word(holds=own_s <= 1.5 and peak_bytes <= 300e6)  # noqa: PLR2004
    return ("1,048,576 ranks on 16,384 nodes, --format json", value, "-", "-", "1.5 s, 300 MB", holds)


def _many_shapes() -> Row:
    """Time 1,000 nodes that all differ, 128 ranks on each."""
    (base,) = load_all([f"synthetic:{LARGE_NODE}"], environ=os.environ).shapes
    cpus = list(base.usable)
    taken = [CpuSet.of([cpus[i % len(cpus)], cpus[(i // len(cpus) + 1) * 2 % len(cpus)]]) for i in range(1000)]
    hosts = tuple((f"n{i:04}", base.restricted(base.usable - one)) for i, one in enumerate(taken))
    allocation = Allocation.of(hosts)
    spec = request(ranks_per_node=128)
    own_s = _timed(lambda: plan(allocation, spec))
    what = f"plan() of 128,000 ranks on 1,000 nodes of {len(allocation.shapes)} shapes"
    return (what, f"{own_s:.2f} s", "-", "-", "5 s", _word(holds=own_s <= 5))  # noqa: PLR2004


def _assignment(repeats: int) -> Row:
    """Time which of 128 ranks has which of 16 GPUs where no two ranks are equally far from all of them."""
    random = Random(1)  # noqa: S311 - a benchmark
    distances = [[random.randrange(40) for _ in range(16)] for _ in range(128)]
    own_s = statistics.median(
        _timed(lambda: assign(distances, each=1, capacities=[8] * 16)) for _ in range(max(repeats, 9))
    )
    what = "128 ranks and 16 GPUs of a node, any distances"
    return (what, f"{own_s * 1e3:.0f} ms", "-", "-", "20 ms", _word(holds=own_s <= 0.020))  # noqa: PLR2004


def _with_gpus(repeats: int) -> Row:
    allocation = load_all(["10000xaurora"], environ=os.environ)
    spec = request(gpus_per_rank=1)
    own_s = statistics.median(_timed(lambda: plan(allocation, spec)) for _ in range(repeats))
    what = "plan() of 120,000 ranks with a GPU each on 10,000 nodes of 12"
    return (what, f"{own_s:.2f} s", "-", "-", "1 s", _word(holds=own_s <= 1))


def _one_large_node(folder: Path, repeats: int) -> Row:
    """Time a whole command; beside it Python with nothing but the libraries for options and tables."""
    node = LARGEST
    if not node.exists():  # a user's clone has no ../shared
        node = folder / "large.xml"
        node.write_text(hwloc.synthetic_xml(LARGE_NODE, os.environ), encoding="utf-8")
    command = [str(BIN / "rankmap"), "plan", "--machine", str(node)]

    least = [sys.executable, "-c", "import click, tabulate"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(words: Sequence[str]) -> None:
        subprocess.run(words, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run(command)  # Python keeps what it has compiled
    rounds = [[_timed(partial(run, words)) for words in (command, least)] for _ in range(max(repeats, 9))]
    own_s, least_s = (statistics.median(times) for times in zip(*rounds, strict=True))
    what = f"rankmap plan of one node with 384 CPUs ({node.name}), start-up included"
    peer = f"{least_s * 1e3:.0f} ms (import click, tabulate)"
    ratio = f"{own_s / least_s:.1f} times"
    return (what, f"{own_s * 1e3:.0f} ms", peer, ratio, "150 ms", _word(holds=own_s <= 0.150))  # noqa: PLR2004


def _timed(action: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    action()
    return time.perf_counter() - start_s


def _word(*, holds: bool) -> str:
    return "ok" if holds else "MISSED"
