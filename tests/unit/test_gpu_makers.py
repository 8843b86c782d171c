"""Unit tests of rankmap.gpu_makers: whose GPUs ranks get on a node that has some of several makers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.devices import gpu_environment, gpu_ids
from rankmap.gpu_makers import makers, of_one_maker
from rankmap.topology import Gpu
from tests.topologies_made import made

NVIDIA = Gpu(pci_address="0000:18:00.0", vendor="NVIDIA")
AMD = Gpu(pci_address="0000:c4:00.0", vendor="AMD", memory_bytes=64 << 30)
APU = replace(AMD, memory_bytes=512 << 20)
ARC = Gpu(pci_address="0000:03:00.0", vendor="Intel")
INTEGRATED = Gpu(pci_address="0000:00:02.0", vendor="Intel")


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ((), ()),
        ((INTEGRATED, NVIDIA), ("NVIDIA", "Intel")),
        ((INTEGRATED, AMD), ("AMD", "Intel")),
        ((APU, ARC), ("Intel", "AMD")),
        ((ARC, AMD, NVIDIA), ("NVIDIA", "AMD", "Intel")),
        ((INTEGRATED, APU), ("AMD", "Intel")),
        ((Gpu(pci_address=""), INTEGRATED), ("", "Intel")),
    ],
)
def test_discrete_gpus_come_before_the_processors_graphics(gpus: tuple[Gpu, ...], expected: tuple[str, ...]) -> None:
    """Then in the order in which Dragon looks for libraries."""
    assert expected == makers(gpus)


@pytest.mark.parametrize(
    ("gpus", "known", "chosen"),
    [
        ((INTEGRATED, NVIDIA, NVIDIA), "", "NVIDIA"),
        ((INTEGRATED, NVIDIA, NVIDIA), "Intel", "NVIDIA"),
        ((NVIDIA, ARC), "Intel", "Intel"),
        ((NVIDIA, ARC), "AMD", "NVIDIA"),
        ((APU, INTEGRATED), "Intel", "Intel"),
    ],
)
def test_ranks_get_gpus_of_one_maker(gpus: tuple[Gpu, ...], known: str, chosen: str) -> None:
    """Of that whose Dragon knows, if these are any that one would want; numbered from 0, and the others are named."""
    node = of_one_maker(replace(made([[2]]), gpus=gpus), known)
    assert {chosen} == {gpu.vendor for gpu in node.gpus}
    assert "0" == gpu_ids(node)[0]
    assert {"CUDA_VISIBLE_DEVICES": "NVIDIA", "ZE_AFFINITY_MASK": "Intel"}[gpu_environment(node, (0,))[-1][0]] == chosen
    assert f"GPUs of several makers: ranks get the {len(node.gpus)} of {chosen}, not the 1 of " in node.gpu_remark


@pytest.mark.parametrize("gpus", [(), (NVIDIA, NVIDIA), (INTEGRATED,)])
def test_of_one_maker_nothing_is_left_out(gpus: tuple[Gpu, ...]) -> None:
    """Nor said."""
    node = replace(made([[2]]), gpus=gpus)
    assert node == of_one_maker(node, "NVIDIA")
