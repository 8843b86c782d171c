"""Plays faults at random, for as long as it is told to, and checks each time that the job ended as it has to.

The faults are those of tests/e2e/rows.py, each with the status, the words and the time in which all has to be over.
Nothing may be left of a job, and a bystander (another job of ours that runs all the while, a file in /dev/shm, a
process with dragon in its name) must not notice anything.

    make chaos MINUTES=30
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT))

from tests.e2e.conftest import RANKMAP, environment  # noqa: E402 - found by the line above
from tests.e2e.rows import ROWS, play  # noqa: E402

STANDING = """
import sys
from mpi4py import MPI
print("up", flush=True)
sys.stdin.readline() if MPI.COMM_WORLD.rank == 0 else None
MPI.COMM_WORLD.Barrier()
print("still here", flush=True)
"""


class Bystander:
    """What must not notice anything: a job, a file in /dev/shm that looks like Dragon's, a process that does."""

    def __init__(self) -> None:
        command = [
            RANKMAP,
            "launch",
            "-n",
            "2",
            "--oversubscribe",
            "--stdin",
            "0",
            "--",
            sys.executable,
            "-c",
            STANDING,
        ]
        self.job = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment({}), cwd=CHECKOUT, text=True
        )
        assert self.job.stdout is not None  # noqa: S101 - for the type checker
        for _ in range(2):
            self.job.stdout.readline()
        self.process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", "dragon"])
        self.file = Path(f"/dev/shm/DD{os.getpid()}bystander")  # noqa: S108 - its name is what matters
        self.file.write_bytes(b"mine")

    def end(self) -> list[str]:
        """Let all of it end; return what was not as it was left."""
        problems = []
        if self.process.poll() is not None:
            problems.append(f"the process that looks like Dragon's has ended: {self.process.poll()}")
        self.process.kill()
        self.process.wait()
        if not self.file.exists():
            problems.append(f"{self.file} is gone")
        self.file.unlink(missing_ok=True)
        out, _ = self.job.communicate("go\n", timeout=60)
        if (self.job.returncode, out) != (0, "still here\nstill here\n"):
            problems.append(f"the job beside ended with status {self.job.returncode} and said {out!r}")
        return problems


def main() -> int:
    """Play until the time is over; return 1 when something was not as it has to be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="how long (default 30)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random choice, to play it again")
    parser.add_argument("--slack", type=float, default=2, help="times the time that a row has (default 2: busy cores)")
    options = parser.parse_args()
    choose = random.Random(options.seed)  # noqa: S311 - no secret
    print(f"seed {options.seed}", flush=True)  # noqa: T201
    played, failed = Counter[str](), Counter[str]()
    seconds: dict[str, list[float]] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bystander = Bystander()
    end_s = time.monotonic() + 60 * options.minutes
    try:
        while time.monotonic() < end_s:
            row = choose.choice(ROWS)
            start_s = time.monotonic()
            problems = play(replace(row, within_s=row.within_s * options.slack))
            seconds.setdefault(row.name, []).append(time.monotonic() - start_s)
            played[row.name] += 1
            if problems:
                failed[row.name] += 1
                print(f"{row.name}:", *problems, sep="\n  ", flush=True)  # noqa: T201
    except KeyboardInterrupt:
        print("ended early", flush=True)  # noqa: T201
    finally:
        beside = bystander.end()
    print(*beside, sep="\n")  # noqa: T201
    rows = [(name, played[name], failed[name], f"{max(seconds[name]):.1f}") for name in sorted(played)]
    rows.append(("all", played.total(), failed.total(), ""))
    print(tabulate(rows, headers=("fault", "played", "failed", "longest, s")))  # noqa: T201
    return 1 if failed or beside else 0


if __name__ == "__main__":
    sys.exit(main())
