"""Whose GPUs ranks are given on a node that has some of several makers: a program uses one maker's, by its variable.

Mostly the others are graphics of the processor, which nobody wants ranks on. Discrete GPUs come first, then the makers
in the order in which Dragon looks for their libraries (DRAGON.md, section 1).

Source: Intel's integrated graphics is device 2 of PCI bus 0 (Intel, processor datasheets, volume 1, "PCI Devices");
AMD's has what the firmware gives it of the node's memory, usually 512 MiB (amdgpu, mem_info_vram_total).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.topology import Gpu, NodeTopology

__all__ = ["integrated", "makers", "of_one_maker"]

_ORDER: Final = ("NVIDIA", "AMD", "Intel", "")
_INTEL_PLACE: Final = "0000:00:02."
_CARVED_OUT_BYTES: Final = 4 << 30


def integrated(gpu: Gpu) -> bool:
    """Return whether this is graphics of the processor rather than a GPU of its own, as far as anybody can tell."""
    if gpu.vendor == "Intel":
        return gpu.pci_address.startswith(_INTEL_PLACE)
    return gpu.vendor == "AMD" and 0 < gpu.memory_bytes <= _CARVED_OUT_BYTES


def makers(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Return who made these GPUs, the one whose ranks are to be given first."""
    discrete = {gpu.vendor for gpu in gpus if not integrated(gpu)}
    return tuple(sorted({gpu.vendor for gpu in gpus}, key=lambda name: (name not in discrete, _ORDER.index(name))))


def of_one_maker(topology: NodeTopology, known: str = "") -> NodeTopology:
    """Return the node with the GPUs of one maker only, and a remark where there are others.

    Args:
        topology: The node.
        known: The maker whose GPUs Dragon knows, whose are then taken, unless they are integrated ones only and there
            are others; "" where it knows none.
    """
    there = makers(topology.gpus)
    if len(there) < 2:  # noqa: PLR2004 - several
        return topology
    usable = {gpu.vendor for gpu in topology.gpus if not integrated(gpu)} or set(there)
    chosen = known if known in usable else there[0]
    gpus = tuple(gpu for gpu in topology.gpus if gpu.vendor == chosen)
    others = " and ".join(_counted(topology.gpus, name) for name in there if name != chosen)
    remark = f"GPUs of several makers: ranks get {_counted(gpus, chosen)}, not {others}"
    return replace(topology, gpus=gpus, gpu_remark=remark)


def _counted(gpus: Sequence[Gpu], name: str) -> str:
    return f"the {sum(gpu.vendor == name for gpu in gpus)} of {name or 'an unknown maker'}"
