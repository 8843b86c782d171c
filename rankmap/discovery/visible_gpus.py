"""Which of a node's GPUs this environment shows to a program, and what the vendor's variables call each of them.

A scheduler masks GPUs with the same variables that a rank is given its own with, and what a mask means depends on it:

* ``CUDA_VISIBLE_DEVICES``: indices or UUIDs, the first that is none ends the list. Indices count in PCI order only
  under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, which ranks are given beside them.
* ``ROCR_VISIBLE_DEVICES``: indices or UUIDs; ``HIP_VISIBLE_DEVICES`` then counts what that has left, as
  ``CUDA_VISIBLE_DEVICES`` does for HIP where it is not set.
* ``ZE_AFFINITY_MASK``: indices, with a tile ``ROOT.TILE``.

Source: CUDA C Programming Guide, "CUDA Environment Variables"; ROCm documentation, "GPU isolation techniques"; oneAPI
Level Zero specification, "Environment Variables".
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.devices import gpu_ids
from rankmap.errors import AllocationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.topology import Gpu, NodeTopology

__all__ = ["with_visible_gpus"]

_INDEX = re.compile(r"-?\d{1,9}", re.ASCII)


def with_visible_gpus(topology: NodeTopology, environ: Mapping[str, str]) -> NodeTopology:
    """Return the node with the GPUs that this environment shows, in its order, each with what it is called (``token``).

    Args:
        topology: The node with all its GPUs, in PCI order.
        environ: The environment of the runtime that ranks will be started from.

    Raises:
        AllocationError: A mask cannot be understood, or names a GPU that the node does not have.
    """
    vendors = {gpu.vendor for gpu in topology.gpus}
    if len(vendors) != 1:
        return topology  # no GPUs, or of several makers, which no one variable masks
    match next(iter(vendors)):
        case "NVIDIA":
            masks: tuple[str, ...] = ("CUDA_VISIBLE_DEVICES",)
        case "AMD":
            hip = "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in environ else "CUDA_VISIBLE_DEVICES"
            masks = ("ROCR_VISIBLE_DEVICES", hip)
        case "Intel":
            masks = ("ZE_AFFINITY_MASK",)
        case _:
            return topology
    shown = [replace(gpu, token=name) for gpu, name in zip(topology.gpus, gpu_ids(topology), strict=True)]
    for variable in masks:
        if (text := environ.get(variable)) is not None:
            shown = _masked(shown, variable, text)
    return replace(topology, gpus=tuple(shown))


def _masked(gpus: Sequence[Gpu], variable: str, text: str) -> list[Gpu]:
    """Return what a mask leaves of these GPUs, which it counts from 0."""
    by_name = dict(zip(map(str, range(len(gpus))), gpus, strict=True))
    by_name |= {gpu.token: gpu for gpu in gpus if "." in gpu.token}
    found: list[Gpu] = []
    for word in text.replace(" ", "").split(",") if text.strip() else ():
        if _INDEX.fullmatch(word) and int(word) < 0:
            break  # the usual way to say: none
        gpu = by_name.get(word) or _by_uuid(gpus, word)
        if gpu is None:
            msg = f"{variable}={text}: {word!r} is none of the {len(gpus)} GPUs that there are"
            hint = "unset it, or correct it; UUIDs of NVIDIA GPUs are known where nvidia-ml-py is installed"
            raise AllocationError(msg, hint=hint)
        if gpu in found:
            msg = f"{variable}={text}: {word!r} is there twice"
            raise AllocationError(msg, hint="the vendor's runtime would show no GPU at all; correct it")
        found.append(gpu)
    return found


def _by_uuid(gpus: Sequence[Gpu], word: str) -> Gpu | None:
    """Return the one GPU whose UUID begins so, in the mask's own word for it."""
    matching = [gpu for gpu in gpus if gpu.uuid and gpu.uuid.startswith(word) and not word.isdecimal()]
    return replace(matching[0], token=word) if len(matching) == 1 else None
