"""Unit tests of rankmap.mapping.memory: which NUMA domains ``--mem-bind`` means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import PlacementError
from rankmap.layout_memory import MemBind
from rankmap.mapping.memory import memory_policy
from rankmap.topology import LogicalIndex, NodeTopology, NumaDomain, OsIndex
from tests.topologies_made import GIB, made


def with_memory(*subtypes: str, local: str = "") -> NodeTopology:
    """Return a node of two domains of two cores (0-1, 2-3), with further memory beside the first: domains 2, 3, ..."""
    node = made([[2], [2]])
    own = [replace(domain, subtype=local) for domain in node.numa_domains]
    beside = [
        NumaDomain(
            os_index=OsIndex(2 + i),
            logical_index=LogicalIndex(2 + i),
            cpus=own[0].cpus,
            memory_bytes=GIB,
            local=False,
            subtype=subtype,
        )
        for i, subtype in enumerate(subtypes)
    ]
    return replace(node, numa_domains=(*own, *beside))


def policy(node: NodeTopology, rule: str, cpus: str = "0-1") -> str | None:
    """Return the policy of a rank on these CPUs."""
    return memory_policy(node, MemBind.parse(rule), CpuSet.parse(cpus) if cpus else None, "n0")


def refusal(node: NodeTopology, rule: str, cpus: str = "0-1") -> tuple[str, str]:
    """Return message and hint of the error that a rule is refused with."""
    with pytest.raises(PlacementError) as caught:
        policy(node, rule, cpus)
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize("subtype", ["NVM", "CXL-DRAM", "CXL-NVM", "SPM", "HBM", "GPUMemory", ""])
def test_dram_is_the_memory_that_cpus_have_as_their_own(subtype: str) -> None:
    """Memory beside it is none, whatever it is called, and one without a name may be HBM."""
    assert policy(with_memory(subtype), "dram") == "bind:0"
    assert policy(with_memory(subtype, local="DRAM"), "dram") == "bind:0"
    assert policy(with_memory(subtype), "dram", "") == "bind:0-1"


def test_a_node_of_hbm_only_has_no_dram() -> None:
    """Xeon Max without DIMMs: its CPUs' own memory is HBM."""
    node = with_memory(local="HBM")
    assert policy(node, "hbm") == "bind:0"
    assert refusal(node, "dram")[0] == (
        "--mem-bind dram: n0 has no DRAM beside CPUs 0-1; its NUMA domains are 0 (HBM), 1 (HBM)"
    )


def test_hbm_that_is_not_called_so_has_to_be_named() -> None:
    """Of some memory the kind is not known; nobody guesses, and no kind is made up in the message."""
    message, hint = refusal(with_memory("", ""), "hbm")
    assert message.endswith("no HBM beside CPUs 0-1; its NUMA domains are 0 (?), 1 (?), 2 (?), 3 (?)")
    assert (True, True) == ("2-3 without CPUs" in hint, "bind:LIST" in hint)
    assert "without CPUs" not in refusal(with_memory(), "hbm")[1]


def test_memory_that_is_not_allowed_is_refused_with_the_reason() -> None:
    """The kernel would leave it out of the policy without a word."""
    node = with_memory("HBM").restricted_memory(CpuSet.parse("0"))
    for rule in ("bind:0-1", "preferred:1", "interleave:0-1"):
        message, hint = refusal(node, rule)
        assert f"--mem-bind {rule}: NUMA domain 1 of n0 is not allowed (cpuset.mems); allowed are 0" == message
        assert "scheduler" in hint
    assert policy(node, "bind:0") == "bind:0"
    assert "no memory in NUMA domain 9" in refusal(node, "bind:9")[0]


def test_kinds_of_memory_are_chosen_among_what_is_allowed() -> None:
    """Of two domains the one; refused where none is left; ``local`` names none, and the kernel takes the nearest."""
    node = with_memory("HBM", "HBM").restricted_memory(CpuSet.parse("0,3"))
    assert policy(node, "hbm") == "bind:3"
    assert policy(node, "dram", "0-3") == "bind:0"
    assert refusal(node, "dram", "2-3")[0] == (
        "--mem-bind dram: beside CPUs 2-3 NUMA domain 1 of n0 is not allowed (cpuset.mems)"
    )
    assert policy(node, "local", "2-3") == "local"
