"""Measures jobs on two hosts beside mpirun over ssh, ssh alone, and bare Dragon (``make bench-hosts``, as root).

The hosts are namespaces of this machine with a CPU each (tests/rig/fakehosts.sh), so that every service of a runtime
shares a core with a rank: the worst case. Each row alternates between the two sides; shown are
medians, and the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHECKOUT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
RIG = str(CHECKOUT / "tests" / "rig" / "fakehosts.sh")
HEADERS = ("what", "rankmap", "peer", "ratio", "limit", "")
Row = tuple[str, str, str, str, str, str]

HOSTS = "node0,node1"
# The same transports for both sides: what ranks of one host take is never used.
ENVIRONMENT = {**os.environ, "OMPI_MCA_btl": "self,tcp,sm", "RIG": "/tmp/fakehosts-bench", "CPUS": "0 1"}  # noqa: S108
# Unbound, each rank gets the only CPU of its host; `--bind-to core` counts the machine's, and takes one for both.
MPIRUN = ("mpirun", "--allow-run-as-root", "--prefix", sys.prefix, "-x", "OMPI_MCA_btl", "--host", "node0:1,node1:1")
LAUNCH = ("rankmap", "launch", "--hosts", HOSTS, "-N", "1", "--")
BENCH = str(CHECKOUT / "mpi_examples" / "bench_mpi")

LOWER_IS_BETTER = {
    "latency_us": "latency 8 B, us",
    "latency_4kib_us": "ping-pong 4 KiB, us",
    "allreduce_us": "allreduce 8 B, us",
    "allreduce_64kib_us": "allreduce 64 KiB, us",
    "barrier_us": "barrier, us",
    "init_s": "MPI_Init, s",
}
HIGHER_IS_BETTER = {"bandwidth_4kib_gb_s": "bandwidth 4 KiB, GB/s", "bandwidth_2mib_gb_s": "bandwidth 2 MiB, GB/s"}
LEAST_RATIO = 0.9
LEAST_MB_S, LEAST_OF_SSH = 100, 0.8
MOST_OF_BARE = 1.1
LIMIT_S = 90
SMALL_MIB, LARGE_MIB = 16, 1040
MPI_TIMES = 3  # its rows scatter most: a bandwidth is 2.2 or 5 GB/s, whoever starts the ranks
LINE = "x" * 99


def on_node0(*command: str) -> tuple[str, float]:
    """Return what this command prints on the first host, and how long it takes.

    Its output goes to files: a pipe is held open by what a failed runtime leaves behind.

    Raises:
        FailedError: It does not end well in time.
    """
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        start_s = time.perf_counter()
        line = ["timeout", str(LIMIT_S), RIG, "run", *command]
        status = subprocess.run(line, check=False, stdout=out, stderr=err, env=ENVIRONMENT, cwd=CHECKOUT).returncode
        took_s = time.perf_counter() - start_s
        out.seek(0)
        err.seek(0)
        if status:
            msg = f"{' '.join(command)}: exit status {status}\n{err.read()}"
            raise FailedError(msg)
        return out.read(), took_s


class FailedError(Exception):
    """What is measured has failed."""


def up() -> None:
    """Make the hosts."""
    subprocess.run([RIG, "up", "2"], check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)


def down() -> None:
    """End all that runs on the hosts, and remove them."""
    subprocess.run([RIG, "down"], check=True, env=ENVIRONMENT)


def mpi(repeats: int) -> Iterator[Row]:
    """Time MPI between two ranks, one on each host, on the only CPU of each."""
    ours, peers = [], []
    for _ in range(MPI_TIMES * repeats):
        ours.append(json.loads(on_node0(*LAUNCH, BENCH)[0]))
        peers.append(json.loads(on_node0(*MPIRUN, "-n", "2", "--bind-to", "none", BENCH)[0]))
    for key, what in {**LOWER_IS_BETTER, **HIGHER_IS_BETTER}.items():
        mine, other = (statistics.median(run[key] for run in runs) for runs in (ours, peers))
        sides = (peers, ours) if key in LOWER_IS_BETTER else (ours, peers)
        ratio = median_ratio(*([run[key] for run in runs] for runs in sides))
        checked = key != "init_s"
        limit, word = (str(LEAST_RATIO), verdict(holds=ratio >= LEAST_RATIO)) if checked else ("", "")
        yield what, f"{mine:g}", f"{other:g} (mpirun over ssh)", f"{ratio:.2f}", limit, word


def output(repeats: int) -> Iterator[Row]:
    """Time what a rank on the other host writes: the difference between a long output and a short one."""

    def mb_s(*command: str) -> float:
        times = [on_node0(*command, "sh", "-c", count(mib))[1] for mib in (SMALL_MIB, LARGE_MIB)]
        return (LARGE_MIB - SMALL_MIB) * 1.048576 / (times[1] - times[0])

    def count(mib: int) -> str:
        words = f"yes {LINE} | head -c {mib}M"
        return f"'{words}'" if quoting else words

    runs = []
    for _ in range(repeats):
        quoting = False
        launch = mb_s("rankmap", "launch", "--hosts", "node1", "-n", "1", "--")
        quoting = True
        runs.append((launch, mb_s("ssh", "node1")))
    mine, other = (statistics.median(one) for one in zip(*runs, strict=True))
    ratio = median_ratio(*zip(*runs, strict=True))
    holds = mine >= LEAST_MB_S or ratio >= LEAST_OF_SSH
    limit = f"{LEAST_MB_S} MB/s, or {LEAST_OF_SSH}"
    yield (
        "output of another host, MB/s",
        f"{mine:.0f}",
        f"{other:.0f} (ssh)",
        f"{ratio:.2f}",
        limit,
        verdict(holds=holds),
    )


def start_up(repeats: int) -> Iterator[Row]:
    """Time a job that does nothing, from its command to its end; some bare starts hang (docs/design/0005)."""
    bare = ("dragon", "--wlm", "ssh", "--hostlist", HOSTS, "--transport", "tcp", "scripts/bare_dragon.py", "0:1")
    hello = str(CHECKOUT / "mpi_examples" / "hello_affinity")
    pairs, n_failed = [], 0
    for _ in range(repeats):
        mine = on_node0(*LAUNCH, hello)[1]
        try:
            pairs.append((mine, on_node0(*bare, hello)[1]))
        except FailedError:  # counted as if it had come up at the last moment; the hosts are new ones then
            pairs.append((mine, float(LIMIT_S)))
            n_failed += 1
            down()
            up()
    mine, other = (statistics.median(one) for one in zip(*pairs, strict=True))
    ratio = median_ratio(*zip(*pairs, strict=True))
    word = verdict(holds=ratio <= MOST_OF_BARE)
    failed = f", {n_failed} of {repeats} not in {LIMIT_S} s" if n_failed else ""
    yield (
        "launch on 2 hosts, s",
        f"{mine:.2f}",
        f"{other:.2f} (bare Dragon{failed})",
        f"{ratio:.2f}",
        str(MOST_OF_BARE),
        word,
    )


def median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of neighbours: the machine is faster at some times than at others."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def verdict(*, holds: bool) -> str:
    """Return the word for the last column."""
    return "ok" if holds else "MISSED"


SECTIONS = {"mpi": mpi, "output": output, "start-up": start_up}


def main(arguments: Sequence[str] | None = None) -> None:
    """Bring the hosts up, run the sections and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=SECTIONS, action="append", help="run only this section")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each side per row (default 3; MPI has three times as many)"
    )
    options = parser.parse_args(arguments)
    up()
    try:
        for name in options.only or SECTIONS:
            rows = list(SECTIONS[name](options.repeats))
            sys.stdout.write(tabulate(rows, headers=HEADERS, disable_numparse=True) + "\n\n")
            sys.stdout.flush()
    except FailedError as error:
        sys.exit(f"bench_hosts.py: {error}")
    finally:
        down()


if __name__ == "__main__":
    main()
