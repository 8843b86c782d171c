from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, PlacementError, RankmapError
from rankmap.hostlist import expand
from rankmap.layout import LayoutSpec
from rankmap.planner import plan
from rankmap.topology import Allocation
from tests.topologies_made import allocation, interleaved, made

NODE = made([[2], [2]], smt=2, number=interleaved(4))
QUAD = made([[4] * 4] * 2)


def test_nothing_asked_is_one_rank_per_usable_core() -> None:
    """Like mpirun, all cores get a rank, on unequal nodes too, and the ranks of a core's PUs are one."""
    made_plan = plan(allocation(NODE, made([[1]])), LayoutSpec())

    assert [str(rank.cpus) for rank in made_plan.ranks] == ["0,4", "1,5", "2,6", "3,7", "0"]
    assert [rank.host for rank in made_plan.ranks] == ["n0"] * 4 + ["n1"]
    assert made_plan.notes == ()


def test_hosts_are_used_in_the_allocations_order() -> None:
    """--hosts and --exclude-hosts say which hosts, not in which order."""
    nodes = allocation(*[NODE] * 4)

    kept = plan(nodes, LayoutSpec(ranks_per_node=1, hosts=("n3", "n1", "n0"), exclude_hosts=("n1",)))

    assert [(rank.host, rank.node_index) for rank in kept.ranks] == [("n0", 0), ("n3", 3)]


def test_reserved_cores_are_free_of_ranks() -> None:
    """A reserved PU keeps its whole core free on every node."""
    assert [str(rank.cpus) for rank in plan(allocation(NODE), LayoutSpec(reserve=CpuSet.parse("5"))).ranks] == [
        "0,4",
        "2,6",
        "3,7",
    ]


@pytest.mark.parametrize(
    ("spec", "notes"),
    [
        (
            LayoutSpec(n_ranks=1, cpus_per_rank=6, hosts=("n0",)),
            ("rank 0 spans NUMA domains 0,1 (asked: -c 6, a domain has 4 cores)", "26 of 32 cores on n0 stay idle"),
        ),
        (
            LayoutSpec(n_ranks=4, cpus_per_rank=8, hosts=("n1",)),
            ("ranks 0-3 span 2 NUMA domains each (asked: -c 8, a domain has 4 cores)",),
        ),
        (
            LayoutSpec(ranks_per_node=1, cpus_per_rank=8),
            (
                "local rank 0 on each of n[0-1] spans NUMA domains 0,1 (asked: -c 8, a domain has 4 cores)",
                "24 of 32 cores on each of n[0-1] stay idle",
            ),
        ),
        (LayoutSpec(n_ranks=1), ("n1 has no ranks",)),
        (
            LayoutSpec(n_ranks=33, hosts=("n0",), oversubscribe=True),
            ("33 ranks share 32 cores on n0",),
        ),
        (LayoutSpec(n_ranks=31, hosts=("n0",)), ("1 of 32 cores on n0 stays idle",)),
    ],
)
def test_notes_say_what_the_table_hides(spec: LayoutSpec, notes: tuple[str, ...]) -> None:
    """Ranks that span domains, idle and shared cores, and nodes without ranks are named."""
    assert notes == plan(allocation(QUAD, QUAD), spec).notes


def test_uneven_domains_are_named_with_their_widths() -> None:
    """Where domains differ, the note has the range."""
    uneven = made([[3, 5], [8]])

    notes = plan(allocation(uneven), LayoutSpec(n_ranks=2, cpus_per_rank=7)).notes

    assert notes[0] == "rank 0 spans NUMA domains 0,1 (asked: -c 7, domains have 3 to 8 cores)"


@pytest.mark.parametrize(
    ("spec", "kind", "message", "hint"),
    [
        (
            LayoutSpec(n_ranks=10),
            PlacementError,
            (
                "-n 10: 10 ranks do not fit on 2 nodes with room for 8\n"
                "  n[0-1] (2 nodes): 4 free cores in 2 NUMA domains, a domain has 2 cores: room for 4 ranks on each"
            ),
            "these fit: -n 8 | -n 10 --oversubscribe",
        ),
        (
            LayoutSpec(n_ranks=6, cpus_per_rank=2, hosts=("n1", "n0")),
            PlacementError,
            (
                "-n 6 -c 2: 6 ranks of 2 cores do not fit on 2 nodes with room for 4\n"
                "  n[0-1] (2 nodes): 4 free cores in 2 NUMA domains, a domain has 2 cores: "
                "room for 2 ranks of 2 cores on each"
            ),
            (
                "these fit: -n 4 -c 2 --hosts 'n[1,0]' | -n 6 -c 1 --hosts 'n[1,0]' | "
                "-n 6 -c 2 --hosts 'n[1,0]' --oversubscribe"
            ),
        ),
        (
            LayoutSpec(n_ranks=12, ranks_per_node=4),
            PlacementError,
            (
                "-n 12 -N 4: 12 ranks, 4 on each node, take 3 nodes, and there are 2\n"
                "  n[0-1] (2 nodes): 4 free cores in 2 NUMA domains, a domain has 2 cores: room for 4 ranks on each"
            ),
            "these fit: -n 8 -N 4 | -n 12 -N 6 --oversubscribe",
        ),
        (
            LayoutSpec(ranks_per_node=5),
            PlacementError,
            (
                "-N 5: 5 ranks do not fit on n[0-1]\n"
                "  n[0-1] (2 nodes): 4 free cores in 2 NUMA domains, a domain has 2 cores: room for 4 ranks on each"
            ),
            "these fit: -N 4 | -N 5 --oversubscribe",
        ),
        (
            LayoutSpec(cpus_per_rank=5),
            PlacementError,
            (
                "-c 5: no node has 5 free cores\n"
                "  n[0-1] (2 nodes): 4 free cores in 2 NUMA domains, a domain has 2 cores: "
                "no room for a rank of 5 cores"
            ),
            "these fit: -c 4 | -n 2 -c 4",
        ),
        (
            LayoutSpec(reserve=CpuSet.parse("0-3")),
            PlacementError,
            "no node has a free core\n  n[0-1] (2 nodes): no free core",
            "no layout fits these nodes: see which CPUs may be used with `rankmap topo`",
        ),
        (
            LayoutSpec(reserve=CpuSet.parse("7-9")),
            PlacementError,
            "--reserve: no node has CPU 8-9; the CPUs are 0-7",
            "",
        ),
        (
            LayoutSpec(hosts=("n7", "n0"), exclude_hosts=("x",), reserve=CpuSet.parse("99")),
            AllocationError,
            (
                "--hosts n7: not in the allocation, which has n[0-1]\n"
                "--exclude-hosts x: not in the allocation, which has n[0-1]\n"
                "--reserve: no node has CPU 99; the CPUs are 0-7"
            ),
            "choose among these hosts, by these names",
        ),
        (
            LayoutSpec(hosts=("n0",), exclude_hosts=("n0",)),
            AllocationError,
            "--hosts n0 and --exclude-hosts n0 leave no host of the allocation's n[0-1]",
            "",
        ),
        (
            LayoutSpec(exclude_hosts=("n0", "n1")),
            AllocationError,
            "--exclude-hosts n[0-1] leaves no host of the allocation's n[0-1]",
            "",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(
    spec: LayoutSpec, kind: type[RankmapError], message: str, hint: str
) -> None:
    """A refusal says what was asked, what there is, and which requests fit; all problems at once."""
    with pytest.raises(kind) as refused:
        plan(allocation(NODE, NODE), spec)

    assert message == refused.value.message
    assert hint == refused.value.hint
    assert kind is type(refused.value)


def test_unequal_nodes_are_told_apart() -> None:
    """Each kind of node has its line, and the nodes that are too small are named."""
    nodes = allocation(NODE, made([[2]]), NODE)

    with pytest.raises(PlacementError) as refused:
        plan(nodes, LayoutSpec(n_ranks=9, ranks_per_node=3))

    assert refused.value.message.splitlines() == [
        "-n 9 -N 3: 3 ranks do not fit on n1",
        "  n[0,2] (2 nodes): 4 free cores in 2 NUMA domains, a domain has 2 cores: room for 4 ranks on each",
        "  n1: 2 free cores in 1 NUMA domain: room for 2 ranks",
    ]
    assert refused.value.hint == "these fit: -n 9 | -n 6 -N 2 | -n 9 -N 3 --oversubscribe"


def test_many_kinds_of_node_are_cut() -> None:
    """The message stays readable on a cluster of odd nodes."""
    with pytest.raises(PlacementError) as refused:
        plan(allocation(*[made([[n]]) for n in range(1, 13)]), LayoutSpec(ranks_per_node=20))

    assert refused.value.message.splitlines()[-1] == "  and 4 more kinds of node"


def test_an_empty_allocation_is_refused() -> None:
    """Nothing can be planned on no hosts."""
    with pytest.raises(AllocationError, match="the allocation has no hosts"):
        plan(Allocation(shapes=(), nodes=()), LayoutSpec())
    with pytest.raises(AllocationError, match="--hosts a: not in the allocation, which has no hosts"):
        plan(Allocation(shapes=(), nodes=()), LayoutSpec(hosts=("a",)))


def _hint(nodes: Allocation, spec: LayoutSpec) -> str:
    try:
        plan(nodes, spec)
    except PlacementError as refused:
        return refused.hint
    return ""


def test_every_suggestion_fits() -> None:
    """A user who copies a suggestion gets a plan."""
    nodes = allocation(QUAD, NODE, made([[3, 8], [1]]))
    specs = [
        LayoutSpec(n_ranks=n, ranks_per_node=p, cpus_per_rank=c)
        for n in (None, 50, 90)
        for p in (None, 9, 60)
        for c in (None, 2, 30, 90)
    ]
    for spec in specs:
        if hint := _hint(nodes, spec):
            for text in hint.removeprefix("these fit: ").split(" | "):
                words = shlex.split(text)
                numbers = {o: int(words[words.index(o) + 1]) for o in ("-n", "-N", "-c") if o in words}
                near = replace(
                    spec,
                    n_ranks=numbers.get("-n"),
                    ranks_per_node=numbers.get("-N"),
                    cpus_per_rank=numbers.get("-c"),
                    oversubscribe="--oversubscribe" in words,
                    exclude_hosts=expand(words[words.index("--exclude-hosts") + 1])
                    if "--exclude-hosts" in words
                    else (),
                )
                assert plan(nodes, near).n_ranks


def test_a_large_machine_costs_one_layout() -> None:
    """65,536 ranks on equal nodes are 64 local ranks and one row of the file."""
    nodes = allocation(*[made([[8] * 4] * 2, smt=2, number=interleaved(64))] * 1024)

    big = plan(nodes, LayoutSpec(ranks_per_node=64))

    assert big.n_ranks == 65536
    assert [64] == [len(layout.ranks) for layout in big.layouts]
    assert len(big.to_json()) < 65536
