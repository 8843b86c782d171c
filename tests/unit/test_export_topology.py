"""Parts of the topology table that a golden file does not reach."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.exporters.topology import _size, as_json, table
from rankmap.topology import Allocation
from tests.topologies_made import made, with_gpus


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, ""), (512, ""), (1 << 20, "1 MiB"), (5 << 29, "2.5 GiB"), (125 << 30, "125 GiB"), (4 << 40, "4096 GiB")],
)
def test_size(size_bytes: int, text: str) -> None:
    """Sizes are short; an unknown one is empty."""
    assert text == _size(size_bytes)


def test_nothing_usable_in_a_domain() -> None:
    """A domain whose CPUs are all taken says so, and the CPUs stay visible."""
    node = replace(made([[2], [2]]), usable=CpuSet.parse("0-1"))
    text = table(Allocation.of((("a", node),)))
    assert "usable: 2 of 4 CPUs; not usable (offline, or not allowed here): 2-3" in text
    assert "no usable CPU" in text


def test_memory_that_a_job_may_not_use_is_remarked() -> None:
    """With what is said of the domain anyway."""
    node = made([[2], [2]], extra_memory=1).restricted_memory(CpuSet.parse("0"))
    rows = table(Allocation.of((("a", node),))).splitlines()[-3:]
    assert [False, True, True] == [row.endswith("not allowed here") for row in rows]
    assert rows[2].endswith("CXL without CPUs, not allowed here")


def test_text_ends_with_one_newline_and_has_no_trailing_blanks() -> None:
    """Output is clean for diff and grep, and the same for the same input."""
    allocation = Allocation.of((("a", made([[2], [2]])), ("b", made([[4]]))))
    text = table(allocation)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert [line.rstrip() for line in text.splitlines()] == text.splitlines()
    assert (text, as_json(allocation)) == (table(allocation), as_json(allocation))


def test_cpus_without_memory() -> None:
    """CPUs that are in no domain have a row of their own."""
    node = made([[2], [2]])
    text = table(Allocation.of((("a", replace(node, numa_domains=node.numa_domains[:1])),)))
    assert "no memory of their own" in text


def test_nvlinks_are_shown_by_the_ids_of_the_gpus_that_they_lead_to() -> None:
    """And there is no such column where there are none, nor an address where none is known."""
    node = with_gpus(made([[4]]), 0, 0, 0)
    addresses = [gpu.pci_address for gpu in node.gpus]
    linked = tuple(replace(gpu, peers=tuple(a for a in addresses if a != gpu.pci_address)) for gpu in node.gpus)
    rows = table(Allocation.of((("a", replace(node, gpus=linked)),))).splitlines()
    assert ["1-2", "0,2", "0-1"] == [row.split()[-1] for row in rows[-3:]]
    assert "NVLink" not in table(Allocation.of((("a", node),)))
    unplaced = tuple(replace(gpu, pci_address="", partition=i) for i, gpu in enumerate(node.gpus))
    assert "address" not in table(Allocation.of((("a", replace(node, gpus=unplaced)),)))
