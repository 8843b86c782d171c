"""What a vendor says of its GPUs, card by card: values, and how they go together with what hwloc says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rankmap.topology import Gpu, OsIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = ["Card", "Part", "fact", "failure", "merged", "numa_of", "pci_address"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one rank can be given of a card: the whole, an instance (MIG), a partition or a tile. "" and 0: unknown.

    ``token`` is what the vendor's variable has to call it, "" where an index does.
    """

    uuid: str = ""
    model: str = ""
    memory_bytes: int = 0
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One PCI device, its parts in the vendor's order: none where no program can use it as it is set up now.

    ``numa`` is the os index of its NUMA domain, None where unknown; ``peers`` as Gpu has them.
    """

    pci_address: str
    parts: tuple[Part, ...]
    numa: int | None = None
    peers: tuple[str, ...] = ()


def pci_address(text: str) -> str:
    """Return a PCI address as hwloc and Linux write it: ``00000000:C7:00.0`` is ``0000:c7:00.0``.

    Raises:
        ValueError: The text is none.
    """
    domain, colon, rest = text.strip().partition(":")
    if not colon:
        msg = f"{text!r} is no PCI address"
        raise ValueError(msg)
    return f"{int(domain, 16):04x}:{rest.lower()}"


def failure(vendor: str, error: Exception, of: str = "") -> str:
    """Return what to say of a vendor's library that failed, of one GPU where that is named."""
    return f"{vendor}'s library{f' of GPU {of}' if of else ''} fails: {error} ({type(error).__name__})"


def fact(path: Path) -> str:
    """Return what a file of sysfs says, "" where there is none, or nothing that can be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def numa_of(address: str, sys: Path) -> int | None:
    """Return the os index of the NUMA domain that Linux says a PCI device is in; None where it does not say.

    Source: Documentation/ABI/testing/sysfs-bus-pci, numa_node (-1: not known).
    """
    text = fact(sys / "bus/pci/devices" / address / "numa_node")
    return int(text) if text.isdecimal() else None


def merged(gpus: Sequence[Gpu], cards: Sequence[Card], *, vendor: str, domains: Iterable[OsIndex]) -> tuple[Gpu, ...]:
    """Return hwloc's GPUs with what the vendor says of its own, in the vendor's order, which its variables count in.

    Cards that hwloc does not show are added. Cards that the vendor does not list are left out: the cgroup or container
    of this process may not use them, or no program can. A vendor that says nothing changes nothing.

    Args:
        gpus: Those of the node, of all vendors.
        cards: All that this vendor's library or driver lets this process use.
        vendor: Its name.
        domains: The NUMA domains that there are.
    """
    if not cards:
        return tuple(gpus)
    known = set(domains)
    shown: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        if gpu.vendor == vendor:
            shown.setdefault(gpu.pci_address, []).append(gpu)
    result = [gpu for gpu in gpus if gpu.vendor != vendor]
    for card in cards:
        numa = (OsIndex(card.numa),) if card.numa is not None and card.numa in known else ()
        blank = Gpu(pci_address=card.pci_address, vendor=vendor, numa=numa)
        result += _known_twice(shown.get(card.pci_address, [blank]), card)
    return tuple(result)


def _known_twice(of_card: Sequence[Gpu], card: Card) -> list[Gpu]:
    """Return the parts of a card: as many as the vendor says, unless that is one and hwloc sees several."""
    parts = card.parts
    if len(parts) == 1 and len(of_card) > 1:
        parts = (replace(parts[0], uuid="", memory_bytes=0),) * len(of_card)
    whole = len(parts) == len(of_card)
    return [
        replace(
            of_card[i if whole else 0],
            partition=i if not whole else of_card[i].partition,
            uuid=part.uuid or (of_card[i].uuid if whole else ""),
            model=part.model or of_card[0].model,
            memory_bytes=part.memory_bytes or (of_card[i].memory_bytes if whole else 0),
            token=part.token,
            peers=card.peers,
        )
        for i, part in enumerate(parts)
    ]
