"""Which of a node's GPUs an environment shows to a program, and what the vendor's variables call each of them.

A scheduler masks GPUs with the same variables that a rank is given its own with, and what a mask means depends on it:

* ``CUDA_VISIBLE_DEVICES``: indices or UUIDs. Indices count in PCI order only under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``,
  which ranks are given beside them. An index of a GPU that is divided (MIG) is its first instance; the others have
  UUIDs only. "NoDevFiles" is what older Slurm says to a job without GPUs.
* ``ROCR_VISIBLE_DEVICES``: indices or UUIDs; ``HIP_VISIBLE_DEVICES`` then counts what that has left, as
  ``CUDA_VISIBLE_DEVICES`` does for HIP where it is not set.
* ``ZE_AFFINITY_MASK``: under ``ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE`` "zeDeviceGet returns all the devices that do not
  have a root-device", so a number is a card with all its tiles and ``ROOT.TILE`` one of them. Under FLAT (what Intel's
  drivers do since 2023 where nothing is set) and COMBINED each tile "will be exposed as a root device" of its own: they
  are numbered through, and ``ROOT.TILE`` names nothing. The order of a mask does not matter: "the order is unchanged".

Source: CUDA C Programming Guide, "CUDA Environment Variables"; NVIDIA MIG User Guide, "CUDA Device Enumeration"; ROCm
documentation, "GPU isolation techniques"; oneAPI Level Zero specification, "Environment Variables" (1.7, "Device
Hierarchy", github.com/oneapi-src/level-zero-spec/pull/169; "Affinity Mask", .../issues/1); Intel, "Flattening GPU Tile
Hierarchy"; hierarchy in other words: github.com/IntelPython/dpctl/pull/2137; Slurm 17.02,
src/plugins/gres/gpu/gres_gpu.c.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Final

from rankmap.devices import gpu_ids, is_instance
from rankmap.errors import AllocationError
from rankmap.gpu_makers import makers
from rankmap.topology import Gpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.topology import NodeTopology

__all__ = ["counted_gpus", "shown_ids", "vendor_of", "with_visible_gpus", "without_gpus"]

_NEGATIVE = re.compile(r"-0*[1-9]\d{0,8}", re.ASCII)
_CUDA, _ROCR, _HIP, _ZE = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"
_VENDORS: Final = {_CUDA: "NVIDIA", _ROCR: "AMD", _ZE: "Intel"}
_COMPOSITE: Final = "COMPOSITE"
_NONE_ALLOCATED: Final = "NoDevFiles"


def vendor_of(variable: str) -> str:
    """Return whose GPUs this variable masks first, "" where it is none of these."""
    return _VENDORS.get(variable, "")


def with_visible_gpus(topology: NodeTopology, environ: Mapping[str, str]) -> NodeTopology:
    """Return the node with the GPUs that this environment shows, in its order, each with what it is called (``token``).

    A mask is for its maker's GPUs. Those of several makers come maker by maker; where all are hidden of the one that
    comes first, there are none: somebody who hides the GPUs does not mean the processor's graphics.

    Args:
        topology: The node with all its GPUs.
        environ: The environment of the runtime that ranks will be started from, or of a rank.

    Raises:
        AllocationError: A mask of that maker cannot be understood, or names a GPU that the node does not have.
    """
    shown: list[Gpu] = []
    for number, maker in enumerate(makers(topology.gpus)):
        own = replace(topology, gpus=tuple(gpu for gpu in topology.gpus if gpu.vendor == maker))
        try:
            left = _visible(own, maker, environ)
        except AllocationError:
            if number == 0:
                raise
            continue  # nobody is given these
        if number == 0 and not left:
            break
        shown += left
    return replace(topology, gpus=tuple(shown))


def without_gpus(topology: NodeTopology, error: AllocationError) -> NodeTopology:
    """Return the node for jobs that ask for no GPUs, as the masks in the environment make no sense; others are told."""
    return replace(topology, gpus=(), gpu_remark=f"{error.message}; {error.hint}" if error.hint else error.message)


def _visible(topology: NodeTopology, maker: str, environ: Mapping[str, str]) -> Sequence[Gpu]:
    """Return what this environment shows of a node with GPUs of one maker; errors as ``with_visible_gpus``."""
    match maker:
        case "NVIDIA":
            # Not in the order of hwloc's CUDA devices: under a mask it has numbered only those that are left.
            shown = _named(sorted(topology.gpus, key=_place))
            masks: tuple[str, ...] = (_CUDA,)
        case "AMD":
            shown, masks = _named(topology.gpus), (_ROCR, _hip_mask(environ))
        case "Intel":
            return _intel(topology, environ)
        case _:
            return topology.gpus
    by = "there are"
    for variable in masks:
        if (text := environ.get(variable)) is not None:
            shown = _masked(shown, variable, text, by)
            by = f"{variable} leaves"
    return shown


def shown_ids(topology: NodeTopology, uuids: Sequence[str], environ: Mapping[str, str]) -> list[str] | None:
    """Return the GPUs that a rank's variables show, by what the plan calls them; None: all that there are.

    A word of a mask that is none of the plan's stays as it is.

    Args:
        topology: The node, its GPUs as the plan has them.
        uuids: Theirs; empty where none is known.
        environ: The rank's variables.
    """
    vendor = topology.gpus[0].vendor if topology.gpus else ""
    words = _shown_words(vendor or next((_VENDORS[name] for name in _VENDORS if name in environ), ""), environ)
    if words is None:
        return None if topology.gpus or topology.gpu_remark else []
    ids = gpu_ids(topology)
    named = [(gpu.token or name, name) for gpu, name in zip(topology.gpus, ids, strict=True)]
    named += [(uuid, name) for uuid, name in zip(uuids, ids, strict=False) if uuid]
    found: list[str] = []
    for word in words:
        found += [name for token, name in named if token == word or token.startswith(f"{word}.")] or [word]
    return found


def _shown_words(vendor: str, environ: Mapping[str, str]) -> list[str] | None:
    """Return what the masks leave, in the words of the first of them; None where there is none."""
    if vendor == "Intel":
        return _words(environ, _ZE) or None  # an empty one is as good as none
    if vendor != "AMD":
        return _words(environ, _CUDA)
    rocr, hip = _words(environ, _ROCR), _words(environ, _hip_mask(environ))
    if rocr is None or hip is None:
        return hip if rocr is None else rocr
    return [rocr[int(word)] for word in takewhile(lambda word: word.isdecimal() and int(word) < len(rocr), hip)]


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
    else:
        if vendor == "AMD":
            _check_hip(environ)
        words = _shown_words(vendor, environ)
        tokens = words if words is not None else [str(i) for i in range(len(ids))]
    if len(tokens) < len(ids):
        msg = f"there are {len(ids)} {vendor} GPUs, and the mask in the environment names {','.join(tokens) or 'none'}"
        raise AllocationError(msg, hint="unset it, or correct it")
    return tuple(Gpu(pci_address="", partition=i, vendor=vendor, token=tokens[i]) for i in range(len(ids)))


def _check_hip(environ: Mapping[str, str]) -> None:
    """Raise where HIP's mask names what it does not count; errors as ``counted_gpus``."""
    variable = _hip_mask(environ)
    rocr, hip = _words(environ, _ROCR), _words(environ, variable) or ()
    for word in hip:
        if not word.isdecimal() or (rocr is not None and int(word) >= len(rocr)):
            left = f"{_ROCR} leaves {len(rocr)} GPUs" if rocr is not None else "it counts GPUs"
            msg = f"{variable}={environ[variable]}: {word!r} is none of them: {left}"
            raise AllocationError(msg, hint=_hint(variable, stacked=rocr is not None))


def _hint(variable: str, *, stacked: bool = False) -> str:
    """Return what to do about a mask; ``stacked``: it counts what another has left."""
    if stacked:
        return f"HIP counts what {_ROCR} leaves from 0: unset {variable}, or correct it"
    if variable == _CUDA:
        return "unset it, or correct it; UUIDs of NVIDIA GPUs are known where nvidia-ml-py is installed"
    return "unset it, or correct it"


def _hip_mask(environ: Mapping[str, str]) -> str:
    return _HIP if _HIP in environ else _CUDA


def _words(environ: Mapping[str, str], variable: str) -> list[str] | None:
    """Return the words of a mask up to one that says: no more, usually a negative number; None where it is not set."""
    text = environ.get(variable)
    if text is None:
        return None
    words = text.replace(" ", "").split(",") if text.strip() else []
    return [*takewhile(lambda word: word != _NONE_ALLOCATED and not _NEGATIVE.fullmatch(word), words)]


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


def _masked(gpus: Sequence[Gpu], variable: str, text: str, by: str) -> list[Gpu]:
    """Return what a mask leaves of these GPUs, which it counts from 0; ``by`` says why they are these."""
    counted = _counted(gpus)
    by_name = dict(zip(map(str, range(len(counted))), counted, strict=True))
    found: list[Gpu] = []
    for word in _words({variable: text}, variable) or ():
        gpu = by_name.get(word) or _by_uuid(gpus, word)
        if gpu is None:
            hint = _hint(variable, stacked=by.startswith(_ROCR))
            raise _unknown(variable, text, word, f"{len(counted)} GPUs that {by}", hint)
        if gpu in found:
            msg = f"{variable}={text}: {word!r} is there twice"
            raise AllocationError(msg, hint="the vendor's runtime would show no GPU at all; correct it")
        found.append(gpu)
    return found


def _unknown(variable: str, text: str, word: str, there: str, hint: str) -> AllocationError:
    return AllocationError(f"{variable}={text}: {word!r} is none of the {there}", hint=hint)


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
            raise _unknown(_ZE, text, word, f"{len(tokens)} GPUs that there are", hint or _hint(_ZE))
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
