"""Launches correct jobs of varied layouts and programs, one after the other: nothing may be found in any of them.

Each must end with status 0 and a report whose verdict is ``match``, without a single finding. Layouts that this node
has no room for are left out. The choice is random: ``--seed`` plays it again.

    make clean-launches LAUNCHES=200
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tabulate import tabulate

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT))

from tests.e2e.conftest import BIN, RANKMAP, environment  # noqa: E402 - found by the line above
from tests.stub_libraries import build  # noqa: E402 - as above

LAYOUTS = (
    "-n 1",
    "-n 1 -c 1",
    "-n 2",
    "-n 2 -c 1",
    "-n 2 --map-by core --bind-to core",
    "-n 2 --map-by numa --oversubscribe",
    "-n 2 --bind-to none",
    "-n 2 --mem-bind local",
    "-n 2 --smt 1",
    "-n 2 --mem-bind bind:0",
    "-n 2 --mem-bind interleave:0",
    "-n 2 --threads 1",
    "-n 2 --gpus-per-rank 1",
    "-n 2 --gpu-bind list:3:1 --mem-bind local",
    "-n 4 --ranks-per-gpu 2 --oversubscribe",
    "-n 2 --rank-by node --map-by slot",
    "-n 3 --oversubscribe",
    "-n 3 --bind-to none --oversubscribe",
    "-n 4 --oversubscribe",
    "-n 4 --oversubscribe --mem-bind local",
    "-n 4 --map-by package --bind-to package:overload-allowed --oversubscribe",
    "-n 5 --oversubscribe -c 1",
    "-n 8 --oversubscribe",
    "-N 2",
    "",
)
SECONDS = ("0", "0.5", "3", "9")
THREADS = """
import hashlib, sys, threading, time
end_s = time.monotonic() + float(sys.argv[1])
def work():
    while time.monotonic() < end_s:
        hashlib.sha256(bytes(1 << 20)).digest()  # without the interpreter's lock
helper = threading.Thread(target=time.sleep, args=(float(sys.argv[1]),))
workers = [threading.Thread(target=work) for _ in range(3)]
for thread in (helper, *workers): thread.start()
"""
COMING_AND_GOING = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
end_s = time.monotonic() + float(sys.argv[1])
while True:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sum, [range(100_000)] * 8))
    if time.monotonic() >= end_s:
        break
"""
MEMORY = """
import mmap, sys, time
end_s = time.monotonic() + float(sys.argv[1])
while True:
    memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, len(memory), 4096):
        memory[offset] = 1
    time.sleep(0.1)
    memory.close()
    if time.monotonic() >= end_s:
        break
"""
CHILDREN = """
import subprocess, sys
subprocess.run(["sh", "-c", f"sleep {sys.argv[1]}"], check=True)
"""
MPI = """
import sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
end_s = time.monotonic() + float(sys.argv[1])
while world.allreduce(time.monotonic() < end_s, MPI.LAND):
    sum(range(100_000))
"""
OPENMP = """
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
int main(int argc, char **argv) {
    double end = now() + atof(argv[argc - 1]);
    double sum = 0;
    do {
#pragma omp parallel for reduction(+ : sum)
        for (long i = 0; i < 20000000; i++) sum += 1.0 / (i + 1);
    } while (now() < end);
    return sum < 0;
}
"""


def programs(folder: Path) -> dict[str, list[str]]:
    """Return what is launched, by name; each takes the seconds as its last argument."""
    python = [sys.executable, "-c"]
    found = {
        "threads": [*python, THREADS],
        "threads that come and go": [*python, COMING_AND_GOING],
        "memory": [*python, MEMORY],
        "child processes": [*python, CHILDREN],
        "MPI": [*python, MPI],
    }
    compiler = shutil.which("cc")
    if compiler:
        source = folder / "openmp.c"
        source.write_text(OPENMP)
        subprocess.run([compiler, "-O1", "-fopenmp", "-o", str(folder / "openmp"), str(source)], check=True)
        found["OpenMP"] = [str(folder / "openmp")]
        shutil.copy(CHECKOUT / "mpi_examples" / "hello_affinity.c", folder)
        mpicc = [str(BIN / "mpicc"), "-fopenmp", "-o", str(folder / "hello"), str(folder / "hello_affinity.c")]
        subprocess.run(mpicc, check=True)
        found["hello in C with threads"] = [str(folder / "hello")]
    return found


def variables(layout: list[str], folder: Path) -> dict[str, str]:
    """Return the environment of a launch: for layouts with GPUs one in which a stub of CUDA's library shows four."""
    stub = folder / "libcudart.so"
    if not any("gpu" in word for word in layout):
        return environment({})
    if not stub.exists() and shutil.which("cc"):
        source = (CHECKOUT / "tests" / "rig" / "fakegpu.c").read_text()
        build(stub, source, "-shared", "-fPIC")
    return environment({"LD_LIBRARY_PATH": str(folder)})


def fits(layout: list[str], folder: Path) -> bool:
    """Return whether this node has room for this layout."""
    plan = [RANKMAP, "plan", *layout, "-o", "/dev/null"]
    return subprocess.run(plan, capture_output=True, env=variables(layout, folder), check=False).returncode == 0


def launch(words: list[str], program: list[str], folder: Path) -> list[str]:
    """Run one job; return what was not as it has to be."""
    file = folder / "report.json"
    file.unlink(missing_ok=True)
    command = [RANKMAP, "launch", *words, "--report", str(file), "--", *program]
    done = subprocess.run(
        command, capture_output=True, text=True, env=variables(words, folder), cwd=CHECKOUT, check=False, timeout=180
    )
    problems = [] if done.returncode == 0 else [f"status {done.returncode}"]
    report: dict[str, Any] = {"verdict": "none", "ranks": []}
    if file.exists():
        report = json.loads(file.read_text())
    if report["verdict"] != "match":
        problems.append(f"verdict {report['verdict']}")
    problems += [f"rank {rank['rank']}: {finding}" for rank in report["ranks"] for finding in rank["findings"]]
    if "warning" in done.stderr:
        problems.append("something was said")
    return [*problems, *done.stderr.splitlines()] if problems else []


def main() -> int:
    """Launch as many jobs as asked for; return 1 when something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--launches", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random choice, to play it again")
    options = parser.parse_args()
    choose = random.Random(options.seed)  # noqa: S311 - no secret
    print(f"seed {options.seed}", flush=True)  # noqa: T201
    launched, failed = Counter[str](), Counter[str]()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="rankmap-clean-") as name:
        named = programs(Path(name))
        layouts = [layout.split() for layout in LAYOUTS if fits(layout.split(), Path(name))]
        try:
            while launched.total() < options.launches:
                layout, what, seconds = choose.choice(layouts), choose.choice(list(named)), choose.choice(SECONDS)
                watch = choose.choice(([], ["--watch", "1"]))
                threads = (
                    ["--threads", "2"] if what == "OpenMP" and fits([*layout, "--threads", "2"], Path(name)) else []
                )
                problems = launch([*layout, *threads, *watch], [*named[what], seconds], Path(name))
                launched[what] += 1
                if problems:
                    failed[what] += 1
                    title = f"{' '.join([*layout, *threads, *watch])}: {what} for {seconds} s"
                    print(title, *problems, sep="\n  ", flush=True)  # noqa: T201
        except KeyboardInterrupt:
            print("ended early", flush=True)  # noqa: T201
    rows = [(what, launched[what], failed[what]) for what in sorted(launched)]
    rows.append(("all", launched.total(), failed.total()))
    print(tabulate(rows, headers=("program", "launched", "failed")))  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
