"""The laws of what a rank has beside its cores: GPUs, memory, the places of its threads."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rankmap.cpuset import CpuSet
from rankmap.devices import distance, gpu_ids
from rankmap.errors import UsageError
from rankmap.layout import LayoutSpec  # noqa: TC001 - hypothesis reads the type hints
from rankmap.placement import Plan
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.topology import Allocation, NodeTopology  # noqa: TC001 - as above
from tests.property.strategies import allocations, planned, rich_topologies

if TYPE_CHECKING:
    from rankmap.placement import RankPlacement

OFTEN_REFUSED = settings(suppress_health_check=[HealthCheck.filter_too_much])
VENDORS = st.sampled_from(("NVIDIA", "AMD", "Intel", ""))


@st.composite
def nodes_with_gpus(draw: st.DrawFn) -> NodeTopology:
    """Draw a node whose GPUs are of one make, on cards of their own or partitions of some."""
    node = draw(rich_topologies())
    vendor, each = draw(VENDORS), draw(st.integers(1, 3))
    cards = [
        replace(gpu, vendor=vendor, pci_address=f"0000:{i // each:02x}:00.0", partition=i % each)
        for i, gpu in enumerate(node.gpus)
    ]
    allowed = draw(st.sampled_from((CpuSet.of(domain.os_index for domain in node.numa_domains), CpuSet.parse("0"))))
    return replace(node, gpus=tuple(cards)).restricted_memory(allowed)


@st.composite
def requests(draw: st.DrawFn) -> LayoutSpec:
    """Draw a request for GPUs, memory or threads, sometimes one that no allocation can honour."""
    words: dict[str, object] = {
        "n_ranks": draw(st.none() | st.integers(1, 12)),
        "ranks_per_node": draw(st.none() | st.none() | st.integers(1, 4)),
        "cpus_per_rank": draw(st.none() | st.none() | st.integers(1, 3)),
        "map_by": draw(st.sampled_from(("auto", "auto", "gpu", "gpu:PE=1", "core", "numa", "node", "rs:a=2,c=2,g=1"))),
        "bind_to": draw(st.sampled_from(("", "", "none", "core"))),
        "smt": draw(st.sampled_from((None, None, 1))),
        "oversubscribe": draw(st.integers(0, 3)) == 0,
        "gpus_per_rank": draw(st.sampled_from((None, 1, 1, 2, "1/2", "1/3"))),
        "ranks_per_gpu": draw(st.sampled_from((None, None, None, 2))),
        "share_gpus": draw(st.integers(0, 3)) == 0,
        "gpu_bind": draw(st.sampled_from(("", "", "closest", "round-robin", "none", "list:0:1:0", "list:1,0:0,1"))),
        "mem_bind": draw(st.sampled_from(("", "local", "none", "bind:0", "preferred:0-1", "hbm", "dram"))),
        "threads_per_rank": draw(st.sampled_from((None, 1, 2, 3))),
    }
    try:
        return request(**words)  # type: ignore[arg-type]
    except UsageError:
        assume(False)  # noqa: FBT003 - hypothesis' own signature
        raise


NODES = allocations(nodes_with_gpus())


def _by_node(made: Plan) -> dict[int, list[RankPlacement]]:
    found: dict[int, list[RankPlacement]] = {}
    for rank in made.ranks:
        found.setdefault(rank.node_index, []).append(rank)
    return found


@OFTEN_REFUSED
@given(NODES, requests())
def test_every_rank_has_its_gpus(nodes: Allocation, spec: LayoutSpec) -> None:
    """As many as asked, all different, of its own node; a GPU has no more ranks than may share it."""
    made = planned(nodes, spec)
    in_set = spec.map_by.gpus
    none = spec.gpu_bind is not None and spec.gpu_bind.rule == "none"
    for index, ranks in _by_node(made).items():
        ids = gpu_ids(nodes.topology(index))
        for rank in ranks:
            assert len(rank.gpus) == (in_set or (0 if none else spec.n_gpus))
            assert len(set(rank.gpus)) == len(rank.gpus)
            assert set(rank.gpus) <= set(ids)
        users = Counter(gpu for rank in ranks for gpu in rank.gpus)
        if users and not spec.share_gpus:
            assert max(users.values()) <= ((spec.map_by.count if in_set else spec.ranks_per_gpu) or 1)


@OFTEN_REFUSED
@given(NODES, st.integers(1, 12))
def test_shared_gpus_have_even_loads(nodes: Allocation, n_ranks: int) -> None:
    """With --share-gpus no GPU has more ranks than an even share."""
    made = planned(nodes, request(n_ranks=n_ranks, share_gpus=True, oversubscribe=True))
    for index, ranks in _by_node(made).items():
        n_gpus = len(nodes.topology(index).gpus)
        users = Counter(gpu for rank in ranks for gpu in rank.gpus)
        assert max(users.values()) <= -(-len(ranks) // n_gpus)


@OFTEN_REFUSED
@given(NODES, requests())
def test_no_two_ranks_want_to_swap(nodes: Allocation, spec: LayoutSpec) -> None:
    """The closest GPUs are given: two ranks that changed one with each other would not be nearer to them together."""
    made = planned(nodes, spec)
    assume(spec.gpu_bind is None or spec.gpu_bind.rule == "closest")
    for index, ranks in _by_node(made).items():
        topology = nodes.topology(index)
        gpus = dict(zip(gpu_ids(topology), topology.gpus, strict=True))
        bound = [rank for rank in ranks if rank.gpus and rank.cpus is not None and not spec.map_by.gpus]
        assume(not spec.may_share)  # else what a rank is bound to is not what it was mapped to
        assume(spec.bind_to is None)
        far = {
            (rank.rank, name): distance(topology, gpu, rank.cpus or CpuSet())
            for rank in bound
            for name, gpu in gpus.items()
        }
        for one in bound:
            for other in bound:
                for a, b in ((a, b) for a in one.gpus for b in other.gpus):
                    if b not in one.gpus and a not in other.gpus:
                        now = far[one.rank, a] + far[other.rank, b]
                        assert now <= far[one.rank, b] + far[other.rank, a]


@OFTEN_REFUSED
@given(NODES, requests())
def test_variables_name_the_gpus(nodes: Allocation, spec: LayoutSpec) -> None:
    """The vendor's variable has the rank's GPUs, in their order; a rank without GPUs has none."""
    made = planned(nodes, spec)
    masks = {"NVIDIA": "CUDA_VISIBLE_DEVICES", "AMD": "ROCR_VISIBLE_DEVICES", "Intel": "ZE_AFFINITY_MASK"}
    for index, ranks in _by_node(made).items():
        vendors = {gpu.vendor for gpu in nodes.topology(index).gpus}
        for rank in ranks:
            mask = dict(rank.env).get(masks.get(next(iter(vendors), ""), ""))
            assert (",".join(rank.gpus) if rank.gpus and vendors != {""} else None) == mask


@OFTEN_REFUSED
@given(NODES, requests())
def test_memory_is_where_there_is_some(nodes: Allocation, spec: LayoutSpec) -> None:
    """A policy names domains that have memory and are allowed; ``dram`` those of the rank's own CPUs."""
    made = planned(nodes, spec)
    for index, ranks in _by_node(made).items():
        domains = {int(domain.os_index): domain for domain in nodes.topology(index).numa_domains}
        for rank in ranks:
            mode, _, listed = (rank.mem or "").partition(":")
            assert (mode == "") == (spec.mem_bind is None or spec.mem_bind.rule == "none")
            for number in CpuSet.parse(listed):
                assert domains[number].allowed
                if spec.mem_bind is not None and spec.mem_bind.rule == "dram" and rank.cpus is not None:
                    assert not domains[number].cpus.isdisjoint(rank.cpus)
                    assert domains[number].local


@OFTEN_REFUSED
@given(NODES, requests())
def test_threads_have_places_of_their_own(nodes: Allocation, spec: LayoutSpec) -> None:
    """As many places as threads, apart from each other, within the CPUs of the rank."""
    made = planned(nodes, spec)
    for rank in made.ranks:
        env = dict(rank.env)
        asked = spec.threads_per_rank
        assert (None if asked is None else str(asked)) == env.get("OMP_NUM_THREADS")
        if rank.cpus is not None and asked is not None:
            places = [CpuSet.parse(place) for place in re.findall(r"\{([\d,]+)\}", env["OMP_PLACES"])]
            together = CpuSet.of(cpu for place in places for cpu in place)
            assert asked == len(places)
            assert sum(map(len, places)) == len(together)
            assert together.issubset(rank.cpus)


@OFTEN_REFUSED
@given(NODES, requests())
def test_equal_requests_give_equal_plans(nodes: Allocation, spec: LayoutSpec) -> None:
    """Planning twice writes the same bytes, and they are read back as the same plan."""
    made = planned(nodes, spec)
    assert made.to_json() == plan(nodes, spec).to_json()
    assert made == Plan.from_json(made.to_json())
