"""Values of a machine preset: what is published about one kind of node; files are read by discovery/presets.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - a field
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Batch",
    "Directive",
    "Dragon",
    "Environment",
    "Gpus",
    "Lines",
    "Memory",
    "Nics",
    "Preset",
    "SetUp",
    "Site",
    "Structure",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """``[topology]``: packages, memory, caches and CPUs of a node as an hwloc synthetic description.

    ``cores`` and ``cpus`` are how many it must come to; ``distances`` are ACPI SLIT values between NUMA domains, in
    the order of their os indices. Source of the grammar: hwloc 2.x manual, "Synthetic topologies".
    """

    synthetic: str
    cores: int
    cpus: int
    distances: tuple[tuple[int, ...], ...] = ()
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """``[[memory]]``: what hwloc calls the memory of a NUMA domain ("HBM", "GPUMemory"), by the domain's os index."""

    numa: int
    subtype: str
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """``[gpus]``: the cards in the order of their numbers, each with the CPUs that it is close to.

    ``near`` has a Linux CPU list for each card, "" where nobody has published it. ``parts`` is how many GPUs a card
    is: tiles of an Intel GPU, partitions of an MI300A.
    """

    vendor: str
    model: str
    near: tuple[str, ...]
    parts: int = 1
    memory_gib: int = 0
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nics:
    """``[nics]``: network interfaces by name, their RDMA devices ("" for none), and the CPUs that they are close to."""

    names: tuple[str, ...]
    devices: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """``[site]``: the CPUs that the site keeps for itself, and its scheduler ("pbs", "slurm", "flux", "lsf")."""

    reserved: CpuSet = CpuSet()
    scheduler: str = ""
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """``[[environment]]``: a variable that ranks have there, unless the user or the shell says otherwise."""

    name: str
    value: str
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dragon:
    """``[dragon]``: how Dragon's transport is set up there: its agent ("hsta", "tcp") and library ("ofi", "ucx").

    ``runtime_lib`` is the directory with libfabric.so or libucp.so, for ``dragon-config add``; "" where not known.
    """

    transport: str
    library: str = ""
    runtime_lib: str = ""
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """``[batch]``: how nodes are asked for in a batch script.

    Args:
        chunk: What each chunk of PBS's ``-l select=N:`` asks for ("system=polaris"), "" for nothing.
        queue: What Slurm calls a queue there: "partition" or "qos"; "" where that is not known, or not Slurm's.
        needs_filesystems: Whether a job that does not say its file systems is refused there.
        options: Long options that the site has added to sbatch, by plugins: "--image".
    """

    chunk: str = ""
    queue: str = ""
    needs_filesystems: bool = False
    options: tuple[str, ...] = ()
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """``[[directive]]``: an option that batch scripts have there, such as "--constraint=gpu"."""

    text: str
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """``[[setup]]``: a line of shell that batch scripts run there before the launch, such as "module load conda"."""

    line: str
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """The lines of a file, to say where something is."""

    file: Path
    lines: tuple[str, ...]

    def place(self, table: str, key: str = "", number: int = 0) -> str:
        """Return file:line of a key, or of the table that lacks it; line 1 where there is no such table.

        Args:
            table: The table's name, or a key outside any table.
            key: A key in it; "" for the table itself.
            number: Which of several tables of that name.
        """
        heads = [i for i, line in enumerate(self.lines) if re.match(rf"\s*\[*{re.escape(table)}\b", line)]
        line = heads[number] if number < len(heads) else 0
        for i in range(line + 1, len(self.lines)) if key else ():
            if self.lines[i].lstrip().startswith("["):
                break
            if re.match(rf"\s*{re.escape(key)}\s*=", self.lines[i]):
                line = i
                break
        return f"{self.file}:{line + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What a file says of one kind of node.

    Args:
        name: What ``--machine`` calls it.
        text: The file, for messages.
        title: The machine, for people.
        unknown: What nobody has published, a phrase each.
        structure: Its CPUs and memory; the other fields are the tables of these names.
    """

    name: str
    text: Lines
    title: str
    unknown: tuple[str, ...]
    structure: Structure
    memory: tuple[Memory, ...]
    gpus: Gpus | None
    nics: Nics | None
    site: Site | None
    environment: tuple[Environment, ...]
    dragon: Dragon | None
    batch: Batch | None
    directive: tuple[Directive, ...]
    setup: tuple[SetUp, ...]

    def completed(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment with the variables of this machine that it does not have."""
        return {one.name: one.value for one in self.environment} | dict(environ)

    @property
    def reserved(self) -> CpuSet:
        """Return the CPUs that the site keeps for itself."""
        return self.site.reserved if self.site is not None else CpuSet()
