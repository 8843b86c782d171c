"""Unit tests of rankmap.mapping.threads: where the threads of a rank are told to go."""

from __future__ import annotations

import pytest

from rankmap.planner import plan
from rankmap.requests import request
from tests.topologies_made import allocation, interleaved, made

NODE = made([[4], [4]], smt=2, number=interleaved(8))
"""Two domains of four cores; core c has CPUs c and c + 8."""


def places(**words: object) -> list[str]:
    """Return OMP_PLACES of each rank, "" where it is not set."""
    return [dict(rank.env).get("OMP_PLACES", "") for rank in plan(allocation(NODE), request(**words)).ranks]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"n_ranks": 2, "threads_per_rank": 4}, ["{0,8},{1,9},{2,10},{3,11}", "{4,12},{5,13},{6,14},{7,15}"]),
        ({"n_ranks": 2, "threads_per_rank": 2}, ["{0,8,1,9},{2,10,3,11}", "{4,12,5,13},{6,14,7,15}"]),
        ({"n_ranks": 2, "threads_per_rank": 3}, ["{0,8,1,9},{2,10},{3,11}", "{4,12,5,13},{6,14},{7,15}"]),
        ({"n_ranks": 1, "cpus_per_rank": 1, "threads_per_rank": 2}, ["{0},{8}"]),
        ({"n_ranks": 1, "cpus_per_rank": 2, "threads_per_rank": 3}, ["{0},{8},{1}"]),
        ({"n_ranks": 1, "cpus_per_rank": 2, "smt": 1, "threads_per_rank": 2}, ["{0},{1}"]),
        ({"n_ranks": 1, "bind_to": "none", "threads_per_rank": 2}, [""]),
        ({"n_ranks": 2, "map_by": "slot", "bind_to": "numa", "threads_per_rank": 1}, ["{0,8,1,9}", "{2,10,3,11}"]),
        (
            {"n_ranks": 4, "map_by": "numa", "threads_per_rank": 2},
            ["{0,8},{1,9}", "{2,10},{3,11}", "{4,12},{5,13}", "{6,14},{7,15}"],
        ),
        (
            {"n_ranks": 2, "map_by": "slot", "bind_to": "numa", "threads_per_rank": 8},
            ["{0},{8},{1},{9},{2},{10},{3},{11}"] * 2,
        ),
    ],
)
def test_threads_have_cores_of_their_own(words: dict[str, object], expected: list[str]) -> None:
    """Whole cores while there are enough; ranks that have the same CPUs begin one after the other."""
    assert expected == places(**words)
