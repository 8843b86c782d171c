"""``--machine [Nx]NAME`` and this host: from the words a user types to an Allocation."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rankmap.cpuset import CpuSet
from rankmap.discovery import hwloc
from rankmap.discovery.hwloc_xml import parse
from rankmap.discovery.preset_files import names
from rankmap.errors import AllocationError, UsageError
from rankmap.gpu_makers import of_one_maker
from rankmap.topology import Allocation, Node, NodeTopology
from rankmap.visible_gpus import counted_gpus, with_visible_gpus, without_gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rankmap.preset import Preset

__all__ = [
    "MachineSpec",
    "allowed_memory",
    "load",
    "load_all",
    "machine_xml",
    "preset_of",
    "required_preset",
    "this_host",
    "this_host_xml",
]

_COUNTED: Final = re.compile(r"(\d+)x(.+)", re.DOTALL)
_SYNTHETIC: Final = "synthetic:"
_MAX_NODES: Final = 100_000
_ACCEPTED: Final = (
    "a machine is a preset (`rankmap machines` lists them), an hwloc XML file (node.xml) or synthetic:DESCRIPTION "
    "(synthetic:pack:2 numa:2 core:8 pu:2), with a node count in front if you like (4xnode.xml); "
    "`rankmap topo --format xml -o node.xml` on a node makes one"
)
_PRESET_SUFFIX: Final = ".toml"
_THIS_HOST: Final = "this host"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """What one ``--machine`` asks for: ``n_nodes`` nodes like ``name``."""

    n_nodes: int
    name: str

    @classmethod
    def parse(cls, text: str) -> MachineSpec:
        """Return the request that ``[Nx]NAME`` stands for; a file of exactly that name wins over a count.

        Raises:
            UsageError: The count is 0 or larger than any machine, or there is no name.
        """
        counted = _COUNTED.fullmatch(text)
        if not text.strip() or "\0" in text:
            msg = f"{text!r} names no machine"
            raise UsageError(msg, hint=_ACCEPTED)
        if counted is None or _exists(Path(text)):
            return cls(n_nodes=1, name=text)
        n_nodes = int(counted[1][:12])
        if not 1 <= n_nodes <= _MAX_NODES:
            msg = f"{text!r} asks for {counted[1]} nodes; an allocation has 1 to {_MAX_NODES}"
            raise UsageError(msg, hint=f"write for example 4x{counted[2]}")
        return cls(n_nodes=n_nodes, name=counted[2])

    def __str__(self) -> str:
        return f"{self.n_nodes}x{self.name}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a synthetic description may be longer than any file name
        return False


def load(spec_text: str, *, environ: Mapping[str, str]) -> Allocation:
    """Return the allocation that one ``[Nx]NAME`` describes; its hosts are called n0, n1, ...

    Args:
        spec_text: A preset, an hwloc XML file or ``synthetic:DESCRIPTION``, with a node count in front or not.
        environ: Where RANKMAP_LIBHWLOC may name a libhwloc.

    Raises:
        UsageError: The text cannot be understood.
        AllocationError: There is no such machine, or it cannot be read.
    """
    return load_all((spec_text,), environ=environ)


def load_all(spec_texts: Iterable[str], *, environ: Mapping[str, str]) -> Allocation:
    """Return the allocation of all these machines, one after the other; hosts are numbered through from n0.

    Raises:
        UsageError: A text cannot be understood.
        AllocationError: There is no such machine, or it cannot be read.
    """
    shapes: dict[NodeTopology, int] = {}
    nodes: list[Node] = []
    for spec in [MachineSpec.parse(text) for text in spec_texts]:  # refuse bad text before reading any file
        topology = parse(machine_xml(spec, environ=environ), source=spec.name)
        topology = of_one_maker(topology)
        if (preset := preset_of(spec.name)) is not None:
            topology = _as_published(topology, preset)
        shape_index = shapes.setdefault(topology, len(shapes))
        nodes += [Node(host=f"n{len(nodes) + i}", shape_index=shape_index) for i in range(spec.n_nodes)]
    return Allocation(shapes=tuple(shapes), nodes=tuple(nodes))


def _as_published(topology: NodeTopology, preset: Preset) -> NodeTopology:
    """Return a preset's node with what XML has no word for: what the site keeps, and of which device nobody knows."""
    parts = preset.gpus.parts if preset.gpus is not None else 1
    places = [near for near in (preset.gpus.near if preset.gpus is not None else ()) for _ in range(parts)]
    gpus = [
        gpu if near else replace(gpu, cpus=CpuSet(), numa=()) for gpu, near in zip(topology.gpus, places, strict=True)
    ]
    near_nics = preset.nics.near if preset.nics is not None and preset.nics.near else ("",) * len(topology.nics)
    nics = [
        nic if near else replace(nic, cpus=CpuSet(), numa=())
        for nic, near in zip(topology.nics, near_nics, strict=True)
    ]
    return replace(topology, reserved=preset.reserved, gpus=tuple(gpus), nics=tuple(nics))


def preset_of(name: str) -> Preset | None:
    """Return the preset that a machine's name is of: one that comes with rankmap, or a TOML file; None for others.

    Raises:
        AllocationError: The file cannot be read, or is not complete.
    """
    known = name.lower() if name.lower() in names() else name
    if known not in names() and not name.endswith(_PRESET_SUFFIX):
        return None
    from rankmap.discovery import presets  # noqa: PLC0415 - a tenth of the time of `rankmap plan` of another machine

    return presets.read(known)


def _meant(name: str, *, most: int) -> str:
    """Return a question for a name that is nearly that of a preset, "" for others."""
    from difflib import get_close_matches  # noqa: PLC0415 - for those who mistype only

    near = get_close_matches(name.lower(), names(), n=most)
    return f"did you mean {' or '.join(near)}? " if near else ""


def required_preset(name: str) -> Preset:
    """Return the preset of this name.

    Raises:
        UsageError: The name is of no preset.
        AllocationError: The preset cannot be read.
    """
    preset = preset_of(name)
    if preset is None:
        msg = f"{name!r} is no machine preset"
        meant = _meant(name, most=1)
        raise UsageError(msg, hint=f"{meant}there is: {', '.join(names())}; or name a TOML file of your own")
    return preset


def machine_xml(spec: MachineSpec, *, environ: Mapping[str, str]) -> str:
    """Return one node of this machine as hwloc 2 XML.

    Raises:
        AllocationError: There is no such machine, or it cannot be read.
    """
    if spec.name.startswith(_SYNTHETIC):
        return hwloc.synthetic_xml(spec.name.removeprefix(_SYNTHETIC), environ)
    if (preset := preset_of(spec.name)) is not None:
        from rankmap.discovery.preset_xml import preset_xml  # noqa: PLC0415 - as above

        return preset_xml(preset, environ)
    path = Path(spec.name)
    if not _exists(path):
        looks_like_file = path.suffix == ".xml" or path.name != spec.name
        msg = f"there is no file {spec.name}" if looks_like_file else f"{spec.name!r} is no machine that rankmap knows"
        raise AllocationError(msg, hint=_meant(spec.name, most=3) + _ACCEPTED)
    return hwloc.file_xml(path, environ)


def this_host_xml(environ: Mapping[str, str]) -> str:
    """Return this host as hwloc 2 XML, with all its CPUs.

    Raises:
        AllocationError: There is no libhwloc, or it cannot read this host.
    """
    return hwloc.live_xml(environ)


def this_host(
    environ: Mapping[str, str], *, kept: CpuSet = CpuSet(), say: Callable[[str], None] = lambda _: None
) -> NodeTopology:
    """Return this host as a program in this environment has it.

    Usable are the CPUs that its cgroup and this process's affinity mask both allow, and the NUMA domains that cgroup
    and cpuset allow; GPUs that a mask hides are left out, and all where a mask makes no sense (``gpu_remark``). They
    may be of several makers (gpu_makers.py). Where only a vendor's run-time library knows of GPUs, nobody knows which
    CPUs they are close to.

    Args:
        environ: The environment.
        kept: CPUs that its site keeps for itself.
        say: Called with what a vendor's library fails at.

    Raises:
        AllocationError: There is no libhwloc, or it cannot read this host.
    """
    from rankmap.discovery.accelerators import with_accelerators  # noqa: PLC0415 - as above

    topology = with_accelerators(parse(hwloc.live_xml(environ), source=_THIS_HOST), say=say)
    try:
        topology = _shown(topology, environ)
    except AllocationError as error:
        topology = without_gpus(topology, error)
    if (allowed := allowed_memory()) is not None:
        topology = topology.restricted_memory(allowed)
    return replace(topology.restricted(CpuSet.of(os.sched_getaffinity(0))), reserved=kept & topology.present)


def _shown(topology: NodeTopology, environ: Mapping[str, str]) -> NodeTopology:
    if topology.gpus:
        return with_visible_gpus(topology, environ)
    from rankmap.discovery.gpu_runtimes import counted  # noqa: PLC0415 - as above

    vendor, n_gpus = counted(environ)
    return replace(topology, gpus=counted_gpus(vendor, tuple(map(str, range(n_gpus))), environ)) if n_gpus else topology


def allowed_memory(status: Path = Path("/proc/self/status")) -> CpuSet | None:
    """Return the NUMA domains that this process may have pages in; None where the kernel does not say.

    hwloc looks for its cgroup, which a container may hide.

    Source: proc_pid_status(5), Mems_allowed_list.
    """
    for line in status.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "Mems_allowed_list":
            return CpuSet.parse(value.strip())
    return None
