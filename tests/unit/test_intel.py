"""Unit tests of rankmap.discovery.intel, on trees as Linux has them in /sys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rankmap.discovery import intel

if TYPE_CHECKING:
    from pathlib import Path


def card(sys: Path, number: int, address: str, *, vendor: str = "0x8086", device: str = "0x0bd5") -> Path:
    """Write a DRM card and its PCI device; return the card's directory."""
    pci = sys / "bus/pci/devices" / address
    pci.mkdir(parents=True)
    (pci / "vendor").write_text(vendor + "\n")
    (pci / "device").write_text(device + "\n")
    drm = sys / "class/drm" / f"card{number}"
    drm.mkdir(parents=True)
    (drm / "device").symlink_to(pci)
    return drm


@pytest.mark.parametrize(
    ("device", "folders", "n_tiles"),
    [
        ("0x0bd5", ("gt/gt0", "gt/gt1"), 2),  # Max 1550, i915
        ("0x0bda", ("gt/gt0",), 1),  # Max 1100, i915
        ("0x7d55", ("gt/gt0", "gt/gt1"), 1),  # Meteor Lake: the second is its media engine
        ("0x0bd5", ("device/tile0/gt0", "device/tile1/gt0"), 2),  # xe
        ("0xe20b", ("device/tile0/gt0", "device/tile0/gt1"), 1),  # Battlemage, xe
        ("0x0bd5", (), 1),
    ],
)
def test_tiles_are_counted(device: str, folders: tuple[str, ...], n_tiles: int, tmp_path: Path) -> None:
    """As the driver in use shows them."""
    drm = card(tmp_path, 0, "0000:18:00.0", device=device)
    for folder in folders:
        (drm / folder).mkdir(parents=True)
    assert [n_tiles] == [len(found.parts) for found in intel.cards(tmp_path)]


def test_cards_are_in_pci_order_and_of_intel_only(tmp_path: Path) -> None:
    """As Level Zero counts them; the console's VGA is somebody else's."""
    card(tmp_path, 0, "0000:03:00.0", vendor="0x1a03")
    card(tmp_path, 1, "0000:9a:00.0")
    card(tmp_path, 2, "0000:18:00.0")
    assert ["0000:18:00.0", "0000:9a:00.0"] == [found.pci_address for found in intel.cards(tmp_path)]


def test_a_file_that_is_no_text_says_nothing(tmp_path: Path) -> None:
    """A device that has fallen off the bus reads as all ones; the others stay."""
    card(tmp_path, 0, "0000:18:00.0")
    (card(tmp_path, 1, "0000:42:00.0") / "device" / "vendor").write_bytes(b"\xff\xff")
    assert ["0000:18:00.0"] == [one.pci_address for one in intel.cards(tmp_path)]
