"""Unit tests of rankmap.discovery.accelerators: hwloc's GPUs with what the vendors say of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.discovery.accelerators import SOURCES, all_gpus, with_accelerators
from rankmap.discovery.gpu_cards import Card, Part, pci_address
from rankmap.topology import Gpu, OsIndex
from tests.topologies_made import made, with_gpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rankmap.topology import NodeTopology

TWO = with_gpus(made([[4], [4]]), 1, 0)
NVIDIA = replace(TWO, gpus=tuple(replace(gpu, vendor="NVIDIA", names=("card0",)) for gpu in TWO.gpus))
FIRST, SECOND = (gpu.pci_address for gpu in TWO.gpus)


@dataclass
class Says:
    """A source that says this, and counts how often it was asked; None: it breaks."""

    cards_: tuple[Card, ...] | None
    VENDOR: str = "NVIDIA"
    DEVICE: str = "nvidiactl"
    n_asked: int = 0
    breaks: Exception = field(default_factory=lambda: RuntimeError("NVML Shared Library Not Found"))

    def cards(self, sys: Path, *, say: Callable[[str], None]) -> tuple[Card, ...]:
        """Return the cards."""
        del sys, say
        self.n_asked += 1
        if self.cards_ is None:
            raise self.breaks
        return self.cards_


def facts(node: NodeTopology, source: Says, tmp_path: Path) -> tuple[Gpu, ...]:
    """Return the GPUs of the node with what this source says."""
    return with_accelerators(node, sys=tmp_path, dev=tmp_path, sources=(source,)).gpus


def whole(address: str, uuid: str) -> Card:
    """Return a card that is not divided."""
    return Card(pci_address=address, parts=(Part(uuid=uuid, model="NVIDIA A100", memory_bytes=40),))


def test_a_drm_card_becomes_a_known_gpu(tmp_path: Path) -> None:
    """Matched by its PCI address, it keeps the place that hwloc knows."""
    first, second = facts(NVIDIA, Says((whole(FIRST, "GPU-a"), whole(SECOND, "GPU-b"))), tmp_path)
    known = {"uuid": "GPU-a", "model": "NVIDIA A100", "memory_bytes": 40}
    assert first == replace(NVIDIA.gpus[0], **known)  # type: ignore[arg-type]
    assert (second.uuid, second.cpus) == ("GPU-b", NVIDIA.gpus[1].cpus)


def test_a_divided_gpu_is_its_instances(tmp_path: Path) -> None:
    """Each at the place of the card, called by its UUID; a card without instances is no GPU that a rank can have."""
    parts = tuple(Part(uuid=f"MIG-{i}", memory_bytes=10 + i, token=f"MIG-{i}") for i in range(3))
    gpus = facts(NVIDIA, Says((Card(pci_address=FIRST, parts=parts), Card(pci_address=SECOND, parts=()))), tmp_path)
    shown = [(gpu.partition, gpu.uuid, gpu.token, gpu.memory_bytes, gpu.cpus) for gpu in gpus]
    assert shown == [(i, f"MIG-{i}", f"MIG-{i}", 10 + i, NVIDIA.gpus[0].cpus) for i in range(3)]


def test_gpus_that_this_process_may_not_use_are_left_out(tmp_path: Path) -> None:
    """A cgroup or a container hides them from the vendor's library, and so from every program."""
    assert ["GPU-b"] == [gpu.uuid for gpu in facts(NVIDIA, Says((whole(SECOND, "GPU-b"),)), tmp_path)]


def test_the_vendors_order_is_taken(tmp_path: Path) -> None:
    """Its variables count in it."""
    gpus = facts(NVIDIA, Says((whole(SECOND, "GPU-b"), whole(FIRST, "GPU-a"))), tmp_path)
    assert [SECOND, FIRST] == [gpu.pci_address for gpu in gpus]


def test_gpus_that_hwloc_does_not_show_are_added(tmp_path: Path) -> None:
    """In a container without PCI devices: at a NUMA domain where Linux says it, at no known CPUs."""
    (tmp_path / "nvidiactl").touch()
    node = made([[4], [4]])
    cards = (replace(whole("0000:07:00.0", "GPU-a"), numa=1), replace(whole("0000:08:00.0", "GPU-b"), numa=9))
    places = [(gpu.vendor, gpu.numa, gpu.cpus) for gpu in facts(node, Says(cards), tmp_path)]
    assert places == [("NVIDIA", (OsIndex(1),), CpuSet()), ("NVIDIA", (), CpuSet())]


def test_tiles_that_hwloc_knows_stay_where_linux_shows_one_card(tmp_path: Path) -> None:
    """The library that names parts knows more than the one that counts cards."""
    tiles = (NVIDIA.gpus[0], replace(NVIDIA.gpus[0], partition=1, names=("ze0.1",)))
    node = replace(NVIDIA, gpus=tuple(replace(tile, vendor="Intel", memory_bytes=64) for tile in tiles))
    one = Says((Card(pci_address=FIRST, parts=(Part(),)),), VENDOR="Intel")
    assert node.gpus == facts(node, one, tmp_path)


def test_a_card_that_hwloc_shows_whole_is_its_tiles(tmp_path: Path) -> None:
    """An hwloc without Level Zero sees one device."""
    node = replace(NVIDIA, gpus=(replace(NVIDIA.gpus[0], vendor="Intel", memory_bytes=128),))
    two = Says((Card(pci_address=FIRST, parts=(Part(), Part())),), VENDOR="Intel")
    assert [(0, 0), (1, 0)] == [(gpu.partition, gpu.memory_bytes) for gpu in facts(node, two, tmp_path)]


@pytest.mark.parametrize("cards", [None, ()])
def test_no_library_changes_nothing(cards: tuple[Card, ...] | None, tmp_path: Path) -> None:
    """Whether it is missing, broken or has nothing to say."""
    assert NVIDIA.gpus == facts(NVIDIA, Says(cards), tmp_path)


def test_a_vendor_without_gpus_is_not_asked(tmp_path: Path) -> None:
    """Loading its library would cost time for nothing."""
    source = Says((), VENDOR="AMD", DEVICE="kfd")
    assert (NVIDIA.gpus, 0) == (facts(NVIDIA, source, tmp_path), source.n_asked)


def test_gpus_of_others_stay(tmp_path: Path) -> None:
    """What one vendor says of its cards says nothing of another's."""
    mixed = replace(NVIDIA, gpus=(NVIDIA.gpus[0], replace(NVIDIA.gpus[1], vendor="AMD")))
    uuids = {gpu.vendor: gpu.uuid for gpu in facts(mixed, Says((whole(FIRST, "GPU-a"),)), tmp_path)}
    assert uuids == {"AMD": "", "NVIDIA": "GPU-a"}


def test_all_gpus_of_a_vendor_can_be_looked_up_again(tmp_path: Path) -> None:
    """For the report: as the library has them at that moment."""
    source = Says((whole(FIRST, "GPU-a"),))
    uuids = [[gpu.uuid for gpu in all_gpus(name, sys=tmp_path, sources=(source,))] for name in ("NVIDIA", "AMD")]
    assert ([["GPU-a"], []], 1) == (uuids, source.n_asked)


def test_every_source_knows_its_vendor() -> None:
    """By the names that Gpu has."""
    assert ["NVIDIA", "AMD", "Intel"] == [source.VENDOR for source in SOURCES]


@pytest.mark.parametrize(
    ("text", "address"),
    [("00000000:C7:00.0", "0000:c7:00.0"), ("0000:07:00.0", "0000:07:00.0"), ("00010000:01:00.0", "10000:01:00.0")],
)
def test_addresses_are_as_hwloc_writes_them(text: str, address: str) -> None:
    """Four digits of domain or as many as it needs, lower case."""
    assert address == pci_address(text)


def test_what_is_no_address_is_refused() -> None:
    """Rather than matched with nothing."""
    with pytest.raises(ValueError, match="no PCI address"):
        pci_address("MIG-1")


def test_a_library_that_fails_is_told_of(tmp_path: Path) -> None:
    """Planning goes on without its facts; one that is not installed is nothing to talk about."""
    said: list[str] = []
    with_accelerators(NVIDIA, sys=tmp_path, dev=tmp_path, sources=(Says(None),), say=said.append)
    assert said == ["NVIDIA's library fails: NVML Shared Library Not Found (RuntimeError)"]
    missing = Says(None, breaks=ModuleNotFoundError("No module named 'pynvml'"))
    with_accelerators(NVIDIA, sys=tmp_path, dev=tmp_path, sources=(missing,), say=said.append)
    assert len(said) == 1
