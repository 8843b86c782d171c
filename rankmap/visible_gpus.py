"""Which of a node's GPUs an environment shows to a program, and what the vendor's variables call each of them.

A scheduler masks GPUs with the same variables that a rank is given its own with, and what a mask means depends on it:

* ``CUDA_VISIBLE_DEVICES``: indices or UUIDs. Indices count in PCI order only under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``,
  which ranks are given beside them. An index of a GPU that is divided (MIG) is its first instance; the others have
  UUIDs only.
* ``ROCR_VISIBLE_DEVICES``: indices or UUIDs; ``HIP_VISIBLE_DEVICES`` then counts what that has left, as
  ``CUDA_VISIBLE_DEVICES`` does for HIP where it is not set.
* ``ZE_AFFINITY_MASK``: under ``ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE`` "zeDeviceGet returns all the devices that do not
  have a root-device", so a number is a card with all its tiles and ``ROOT.TILE`` one of them. Under FLAT (what Intel's
  drivers do since 2023 where nothing is set) and COMBINED each tile "will be exposed as a root device" of its own: they
  are numbered through, and ``ROOT.TILE`` names nothing. The order of a mask does not matter: "the order is unchanged".

Source: CUDA C Programming Guide, "CUDA Environment Variables"; NVIDIA MIG User Guide, "CUDA Device Enumeration"; ROCm
documentation, "GPU isolation techniques"; oneAPI Level Zero specification, "Environment Variables" (1.7, "Device
Hierarchy", github.com/oneapi-src/level-zero-spec/pull/169; "Affinity Mask", .../issues/1); Intel, "Flattening GPU Tile
Hierarchy"; hierarchy in other words: github.com/IntelPython/dpctl/pull/2137.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final

from rankmap.devices import gpu_ids, is_instance
from rankmap.errors import AllocationError
from rankmap.topology import Gpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.topology import NodeTopology

__all__ = ["counted_gpus", "vendor_of", "with_visible_gpus"]

_INDEX = re.compile(r"-?\d{1,9}", re.ASCII)
_CUDA, _ROCR, _HIP, _ZE = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"
_VENDORS: Final = {_CUDA: "NVIDIA", _ROCR: "AMD", _ZE: "Intel"}
_COMPOSITE: Final = "COMPOSITE"


def vendor_of(variable: str) -> str:
    """Return whose GPUs this variable masks first, "" where it is none of these."""
    return _VENDORS.get(variable, "")


def with_visible_gpus(topology: NodeTopology, environ: Mapping[str, str]) -> NodeTopology:
    """Return the node with the GPUs that this environment shows, in its order, each with what it is called (``token``).

    Args:
        topology: The node with all its GPUs.
        environ: The environment of the runtime that ranks will be started from, or of a rank.

    Raises:
        AllocationError: A mask cannot be understood, or names a GPU that the node does not have.
    """
    vendors = {gpu.vendor for gpu in topology.gpus}
    if len(vendors) != 1:
        return topology  # no GPUs, or of several makers, which no one variable masks
    shown: list[Gpu]
    match next(iter(vendors)):
        case "NVIDIA":
            # Not in the order of hwloc's CUDA devices: under a mask it has numbered only those that are left.
            shown = _named(sorted(topology.gpus, key=_place))
            masks: tuple[str, ...] = (_CUDA,)
        case "AMD":
            shown, masks = _named(topology.gpus), (_ROCR, _hip_mask(environ))
        case "Intel":
            return replace(topology, gpus=_intel(topology, environ))
        case _:
            return topology
    for variable in masks:
        if (text := environ.get(variable)) is not None:
            shown = _masked(shown, variable, text)
    return replace(topology, gpus=tuple(shown))


def counted_gpus(vendor: str, ids: Sequence[str], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return GPUs of which only their number is known, with what the variables call each; nobody knows where they are.

    Args:
        vendor: Whose they are.
        ids: What the run-time library, or Dragon, calls those that this environment shows.
        environ: That environment.

    Raises:
        AllocationError: A mask shows fewer than there are, or cannot be understood.
    """
    if vendor == "Intel":
        tokens = _counted_intel(ids, environ)
    elif vendor == "AMD":
        all_ids = [str(i) for i in range(len(ids))]
        rocr, hip = _words(environ, _ROCR), _words(environ, _hip_mask(environ))
        tokens = rocr if rocr is not None else all_ids
        if hip is not None:
            unknown = [word for word in hip if not word.isdecimal() or (rocr is not None and int(word) >= len(rocr))]
            if unknown:
                left = f"{_ROCR} leaves {len(tokens)} GPUs" if rocr is not None else "it counts GPUs"
                msg = f"{_hip_mask(environ)}={','.join(hip)}: {unknown[0]!r} is none of them: {left}"
                raise AllocationError(msg, hint=_HINT)
            tokens = hip if rocr is None else [rocr[int(word)] for word in hip]
    else:
        words = _words(environ, _CUDA)
        tokens = words if words is not None else [str(i) for i in range(len(ids))]
    if len(tokens) < len(ids):
        msg = f"there are {len(ids)} {vendor} GPUs, and the mask in the environment names {','.join(tokens) or 'none'}"
        raise AllocationError(msg, hint=_HINT)
    return tuple(Gpu(pci_address="", partition=i, vendor=vendor, token=tokens[i]) for i in range(len(ids)))


_HINT: Final = "unset it, or correct it; UUIDs of NVIDIA GPUs are known where nvidia-ml-py is installed"


def _hip_mask(environ: Mapping[str, str]) -> str:
    return _HIP if _HIP in environ else _CUDA


def _words(environ: Mapping[str, str], variable: str) -> list[str] | None:
    """Return the words of a mask up to a negative number, the usual way to say: no more; None where it is not set."""
    text = environ.get(variable)
    if text is None:
        return None
    words = text.replace(" ", "").split(",") if text.strip() else []
    ends = [i for i, word in enumerate(words) if _INDEX.fullmatch(word) and int(word) < 0]
    return words[: ends[0]] if ends else words


def _place(gpu: Gpu) -> tuple[list[int], int]:
    """Return what sorts GPUs in PCI order; those without an address stay as they are, by partition."""
    return [int(part, 16) for part in re.findall(r"[0-9a-f]+", gpu.pci_address.lower())], gpu.partition


def _named(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Return the GPUs with their indices as tokens; beside divided ones, which have UUIDs only, all by UUID."""
    divided = any(is_instance(gpu) for gpu in gpus)
    return [
        gpu if is_instance(gpu) else replace(gpu, token=gpu.uuid if divided and gpu.uuid else str(i))
        for i, gpu in enumerate(gpus)
    ]


def _counted(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Return the GPUs that indices count: of a divided one its first instance only."""
    if not any(is_instance(gpu) for gpu in gpus):
        return list(gpus)
    return [next(of_card) for _, of_card in groupby(gpus, key=lambda gpu: gpu.pci_address)]


def _masked(gpus: Sequence[Gpu], variable: str, text: str) -> list[Gpu]:
    """Return what a mask leaves of these GPUs, which it counts from 0."""
    counted = _counted(gpus)
    by_name = dict(zip(map(str, range(len(counted))), counted, strict=True))
    found: list[Gpu] = []
    for word in _words({variable: text}, variable) or ():
        gpu = by_name.get(word) or _by_uuid(gpus, word)
        if gpu is None:
            raise _unknown(variable, text, word, len(counted))
        if gpu in found:
            msg = f"{variable}={text}: {word!r} is there twice"
            raise AllocationError(msg, hint="the vendor's runtime would show no GPU at all; correct it")
        found.append(gpu)
    return found


def _unknown(variable: str, text: str, word: str, n_gpus: int, hint: str = _HINT) -> AllocationError:
    return AllocationError(f"{variable}={text}: {word!r} is none of the {n_gpus} GPUs that there are", hint=hint)


def _by_uuid(gpus: Sequence[Gpu], word: str) -> Gpu | None:
    """Return the one GPU whose UUID begins so, in the mask's own word for it."""
    matching = [gpu for gpu in gpus if gpu.uuid and gpu.uuid.startswith(word) and not word.isdecimal()]
    return replace(matching[0], token=word) if len(matching) == 1 else None


def _composite(environ: Mapping[str, str]) -> bool:
    """Return whether cards have tiles; where nothing is said a mask of ROOT.TILE is meant so, and ranks are told."""
    hierarchy = environ.get("ZE_FLAT_DEVICE_HIERARCHY", "").upper()
    return hierarchy == _COMPOSITE or (not hierarchy and "." in environ.get(_ZE, ""))


def _intel(topology: NodeTopology, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the cards or tiles that ZE_AFFINITY_MASK leaves, in their own order, whatever that of the mask."""
    names, composite = gpu_ids(topology), _composite(environ)
    tokens = names if composite else tuple(map(str, range(len(names))))
    shown = [replace(gpu, token=token) for gpu, token in zip(topology.gpus, tokens, strict=True)]
    text, words = environ.get(_ZE, ""), _words(environ, _ZE)
    if not words:
        return tuple(shown)  # to Level Zero an empty mask is as good as none (NEO, parseAffinityMask)
    wanted: set[str] = set()
    for word in words:
        meant = {token for token in tokens if word == token or (composite and token.startswith(f"{word}."))}
        if not meant:
            flat = "." in word and word in names
            hint = "ROOT.TILE is for ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE: set that, or number the tiles from 0" * flat
            raise _unknown(_ZE, text, word, len(tokens), hint or "unset it, or correct it")
        wanted |= meant
    return tuple(gpu for gpu in shown if gpu.token in wanted)


def _counted_intel(ids: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    words = _words(environ, _ZE)
    if not words:
        return list(ids)
    words = sorted(set(words), key=lambda word: [int(part) for part in re.findall(r"\d+", word)])
    if len(words) == len(ids):
        return words
    if _composite(environ) and not any("." in word for word in words):
        roots = [*dict.fromkeys(name.partition(".")[0] for name in ids)]
        if len(roots) == len(words):
            number = dict(zip(roots, words, strict=True))
            return [number[root] + dot + tile for root, dot, tile in (name.partition(".") for name in ids)]
    msg = f"{_ZE}={environ[_ZE]}: it shows {len(ids)} GPUs, and nobody can tell which of its words each of them is"
    raise AllocationError(msg, hint="unset it, or name each tile in it")
