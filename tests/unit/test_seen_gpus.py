"""Unit tests of rankmap.runtime.seen_gpus: the GPUs that running ranks really see, by UUID."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rankmap.cpuset import CpuSet
from rankmap.observe import Observation
from rankmap.placement import Plan
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime.rank_process import RankProcess
from rankmap.runtime.seen_gpus import note_uuids, shown_uuids
from rankmap.topology import Allocation, Gpu
from rankmap.verification import verify
from tests.topologies_made import made, with_gpus

_GPUS = with_gpus(made([[2], [2]]), 0, 1)
NODE = replace(
    _GPUS, gpus=tuple(replace(gpu, vendor="NVIDIA", uuid=f"GPU-{i}", token=str(i)) for i, gpu in enumerate(_GPUS.gpus))
)
PLAN = plan(Allocation.of((("vm", NODE),)), request(gpus_per_rank=1))


def started() -> list[RankProcess]:
    """Return both ranks as they are when the application was started with the planned variables."""
    return [
        RankProcess(
            rank.rank,
            seen=Observation(rank=rank.rank, host="vm", pid=1, cpus=rank.cpus or CpuSet(), variables=dict(rank.env)),
        )
        for rank in PLAN.ranks
    ]


def findings(ranks: list[RankProcess]) -> list[tuple[int, str, str, str]]:
    """Return what the report finds about them."""
    report = verify(PLAN, {rank.number: rank.seen for rank in ranks if rank.seen is not None})
    return [(number, finding.slug, finding.expected, finding.observed) for number, finding in report.errors()]


def test_the_report_has_the_uuids_of_both_sides() -> None:
    """Planned and observed; the library is asked once for all ranks, and once only."""
    asked: list[str] = []

    def all_gpus(vendor: str) -> tuple[Gpu, ...]:
        asked.append(vendor)
        return NODE.gpus

    ranks = started()
    note_uuids(PLAN, ranks, all_gpus)
    note_uuids(PLAN, ranks, all_gpus)
    report = verify(PLAN, {rank.number: rank.seen for rank in ranks if rank.seen is not None})
    for rank in report.ranks:
        assert rank.observed is not None
        assert [f"GPU-{rank.rank}"] == rank.planned["gpu_uuids"] == rank.observed["gpu_uuids"]
    assert (asked, findings(ranks)) == (["NVIDIA"], [])


def test_another_gpu_at_the_same_index_is_found() -> None:
    """A GPU fell off the bus, or was divided, between planning and starting: indices mean other ones now."""
    ranks = started()
    note_uuids(PLAN, ranks, lambda _vendor: NODE.gpus[1:])
    assert findings(ranks) == [
        (0, "gpus-differ", "GPU 0 (GPU-0)", "GPU-1"),
        (1, "gpus-differ", "GPU 1 (GPU-1)", "none"),
    ]


def test_nothing_is_claimed_where_nobody_can_tell() -> None:
    """Without the vendor's library when the ranks start, before they start, or where the plan knows no UUID."""
    ranks = started()
    note_uuids(PLAN, ranks, lambda _vendor: ())
    assert ([None, None], []) == ([rank.seen.gpu_uuids for rank in ranks if rank.seen], findings(ranks))
    before = [RankProcess(0), RankProcess(1, seen=replace(started()[1].seen, variables=None))]  # type: ignore[type-var]
    note_uuids(PLAN, before, lambda _vendor: pytest.fail("asked too early"))
    unknown = plan(Allocation.of((("vm", _GPUS),)), request(gpus_per_rank=1))
    note_uuids(unknown, started(), lambda _vendor: pytest.fail("asked for nothing"))


@pytest.mark.parametrize(
    ("variables", "uuids"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, ("GPU-1", "GPU-0")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1"}, ("GPU-1",)),
        ({"CUDA_VISIBLE_DEVICES": "7"}, ()),
        ({}, ("GPU-0", "GPU-1")),
    ],
)
def test_variables_show_gpus(variables: dict[str, str], uuids: tuple[str, ...]) -> None:
    """What names none of them shows none."""
    assert uuids == shown_uuids(NODE, NODE.gpus, variables)
    assert shown_uuids(NODE, (), variables) is None
    assert shown_uuids(NODE, (replace(NODE.gpus[0], uuid=""),), {}) is None


def test_uuids_travel_in_a_saved_plan() -> None:
    """With the node, not with its shape."""
    again = Plan.from_json(PLAN.to_json())
    assert (again, ("GPU-0", "GPU-1")) == (PLAN, again.allocation.nodes[0].gpu_uuids)
