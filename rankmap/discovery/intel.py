"""The tiles of Intel's GPUs, by what Linux says of them: hwloc sees them only where it was built with Level Zero.

Source: Linux, Documentation/ABI/testing/sysfs-driver-intel-xe-* (``device/tile<n>/gt<n>``); Intel's i915 for the Data
Center GPU Max (Ponte Vecchio), whose ``gt/gt<n>`` are one for each tile; pci.ids for its device ids, 0bd0 to 0bdb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rankmap.discovery.gpu_cards import Card, Part, fact, numa_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["DEVICE", "VENDOR", "cards"]

VENDOR: Final = "Intel"
DEVICE: Final = "dri"

_VENDOR_ID: Final = "0x8086"
_PONTE_VECCHIO: Final = frozenset(f"0x{number:04x}" for number in range(0x0BD0, 0x0BDC))


def cards(sys: Path, *, say: Callable[[str], None] = lambda _: None) -> tuple[Card, ...]:
    """Return the cards that have a driver, in the order of their PCI addresses.

    Args:
        sys: Where sysfs is.
        say: Not called: there is no library.
    """
    del say
    result = []
    for drm in (sys / "class/drm").glob("card[0-9]*"):
        device = drm / "device"
        address = device.resolve().name
        if ":" in address and fact(device / "vendor") == _VENDOR_ID:
            parts = (Part(),) * _n_tiles(drm, device)
            result.append(Card(pci_address=address, parts=parts, numa=numa_of(address, sys)))
    return tuple(sorted(result, key=lambda card: card.pci_address))


def _n_tiles(drm: Path, device: Path) -> int:
    if tiles := len(list(device.glob("tile[0-9]*"))):
        return tiles
    # Elsewhere a second one is the media engine of the only tile.
    divided = fact(device / "device") in _PONTE_VECCHIO
    return len(list((drm / "gt").glob("gt[0-9]*"))) or 1 if divided else 1
