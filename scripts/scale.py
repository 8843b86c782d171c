"""What Dragon itself costs per process and per template: groups of /bin/true on this machine, without rankmap.

``.venv/bin/python scripts/scale.py [--counts 64,128] [--kinds each,one]`` starts one runtime per row and prints CPU
seconds and wall times of a ProcessGroup's init, start and join, and the exponent that fits each column. Kinds:

* ``each``: one template per process, each with its own Policy (HOST_NAME, cpu_affinity);
* ``one``: one template with ``nproc=N``;
* ``pmix-each``, ``pmix-one``: the same as PMIx groups.

docs/design/0012-scale.md has what came out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from rankmap.runtime.libpmix import find_libpmix
from rankmap.runtime.mending import python_path

BIN = Path(sys.executable).parent
KINDS = ("each", "one", "pmix-each", "pmix-one")
PHASES = ("init", "start", "join")
TICKS = os.sysconf("SC_CLK_TCK")


def inside(kind: str, n_processes: int, out: str) -> None:
    """Run one group in the runtime around this process, and write what each phase took as JSON."""
    from dragon.infrastructure.facts import PMIBackend  # noqa: PLC0415 - there is a runtime only here
    from dragon.infrastructure.policy import Policy  # noqa: PLC0415 - there is a runtime only here
    from dragon.native.machine import Node, System  # noqa: PLC0415 - there is a runtime only here
    from dragon.native.process import ProcessTemplate  # noqa: PLC0415 - there is a runtime only here
    from dragon.native.process_group import ProcessGroup  # noqa: PLC0415 - there is a runtime only here

    node = Node(System().nodes[0])
    pmi = PMIBackend.PMIX if kind.startswith("pmix") else None
    group = ProcessGroup(restart=False, ignore_error_on_exit=True, pmi=pmi)
    marks = [(time.monotonic(), cpu_s())]
    for index in range(n_processes if kind.endswith("each") else 1):
        policy = Policy(
            placement=Policy.Placement.HOST_NAME,
            host_name=node.hostname,
            cpu_affinity=[node.cpus[index % len(node.cpus)]],
        )
        template = ProcessTemplate(target="/bin/true", cwd="/", policy=policy)
        group.add_process(1 if kind.endswith("each") else n_processes, template)
    for phase in (group.init, group.start, group.join):
        phase()
        marks.append((time.monotonic(), cpu_s()))
    row: dict[str, float] = {}
    for phase, (before_s, before), (after_s, after) in zip(PHASES, marks, marks[1:], strict=False):
        row[f"{phase} s"] = after_s - before_s
        for name in after:
            row[f"{phase} {name} CPU s"] = after[name] - before.get(name, 0.0)
    Path(out).write_text(json.dumps(row), encoding="utf-8")
    os._exit(0)  # closing is not measured, and rankmap does not do it either


def cpu_s() -> dict[str, float]:
    """Return the CPU seconds so far of this process, its parent (the runtime) and the group's services (the rest)."""
    services = 0.0
    for children in Path(f"/proc/{os.getppid()}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a process of the group that has just ended
            for pid in children.read_text().split():
                if int(pid) != os.getpid() and "python" in Path(f"/proc/{pid}/cmdline").read_text():
                    services += _cpu_of(pid)
    return {"runtime": _cpu_of(os.getppid()), "head": _cpu_of(os.getpid()), "services": services}


def _cpu_of(pid: int | str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(kind: str, n_processes: int, timeout_s: float, *, bare: bool) -> dict[str, float] | None:
    """Run one group in a runtime of its own; None when it takes longer than this."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [str(BIN / "dragon"), "-s", sys.executable, __file__, "--inside", kind, str(n_processes), str(out)]
        libpmix = find_libpmix(os.environ).path
        (Path(folder) / "libpmix.so").symlink_to(libpmix)  # the name that Dragon looks for
        environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "TMPDIR": folder,
            "LD_LIBRARY_PATH": f"{folder}:{libpmix.parent}",
            **({} if bare else {"PYTHONPATH": python_path(os.environ)}),
        }
        with (Path(folder) / "log").open("w") as log:
            dragon = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, process_group=0
            )
            try:
                dragon.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(dragon.pid, 9)
                dragon.wait()
        if out.exists():
            row: dict[str, float] = json.loads(out.read_text())
            return row
        sys.stderr.write((Path(folder) / "log").read_text()[-2000:])
        return None


def exponent(points: list[tuple[int, float]]) -> float | None:
    """Return b of the a*n^b that fits best (least squares of the logarithms), None for too few points above 20 ms."""
    usable = [(math.log(n), math.log(value)) for n, value in points if value >= 0.02]  # noqa: PLR2004
    if len(usable) < 3:  # noqa: PLR2004
        return None
    mean_x = sum(x for x, _ in usable) / len(usable)
    mean_y = sum(y for _, y in usable) / len(usable)
    return sum((x - mean_x) * (y - mean_y) for x, y in usable) / sum((x - mean_x) ** 2 for x, _ in usable)


def say(*columns: object) -> None:
    """Print one line of a table at once."""
    print(*columns, sep="  ", flush=True)  # noqa: T201


def main() -> None:
    """Measure and print every row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", default="64,128,256,512,1024,2048,4096")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--bare", action="store_true", help="Dragon as it is, without runtime/mending.py")
    parser.add_argument("--inside", nargs=3)
    words = parser.parse_args()
    if words.inside:
        inside(words.inside[0], int(words.inside[1]), words.inside[2])
        return
    columns = ["init s", "start s", "join s", "init runtime CPU s", "start runtime CPU s", "join runtime CPU s"]
    columns += ["init services CPU s", "start services CPU s", "join services CPU s", "start head CPU s"]
    for kind in words.kinds.split(","):
        say(kind, *columns)
        rows: dict[int, dict[str, float]] = {}
        for n_processes in map(int, words.counts.split(",")):
            row = measure(kind, n_processes, words.timeout, bare=words.bare)
            if row is None:
                say(f"{n_processes:6}  failed, or longer than {words.timeout:.0f} s")
                break
            rows[n_processes] = row
            say(f"{n_processes:6}", *(f"{row.get(column, 0):8.2f}" for column in columns))
        fits = [exponent([(n, row.get(column, 0)) for n, row in rows.items()]) for column in columns]
        say("   n^b", *(f"{'-' if fit is None else round(fit, 2)!s:>8}" for fit in fits))


if __name__ == "__main__":
    main()
