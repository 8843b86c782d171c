from __future__ import annotations

import pytest

from rankmap.cpuset import CpuSet
from rankmap.mapping.cores import free_domains
from rankmap.mapping.default import arrange, capacity
from tests.topologies_made import made


def _arranged(cores: list[list[int]], n_ranks: int, cpus_per_rank: int | None = None) -> list[str]:
    domains = free_domains(made(cores), reserve=CpuSet())
    blocks = arrange(domains, n_ranks=n_ranks, cpus_per_rank=cpus_per_rank)
    return [str(CpuSet.of(cpu for core in block for cpu in core.cpus)) for block in blocks]


@pytest.mark.parametrize(
    ("cores", "n_ranks", "expected"),
    [
        ([[4], [4]], 2, ["0-3", "4-7"]),
        ([[4], [4]], 4, ["0-1", "2-3", "4-5", "6-7"]),
        ([[4], [4]], 3, ["0-1", "2-3", "4-7"]),
        ([[5], [5]], 4, ["0-1", "2-3", "5-6", "7-8"]),
        ([[6], [2]], 4, ["0-1", "2-3", "4-5", "6-7"]),
        ([[1], [15]], 2, ["1-7", "8-14"]),
        ([[2, 0], [2]], 4, ["0", "1", "2", "3"]),
    ],
)
def test_ranks_share_out_the_domains(cores: list[list[int]], n_ranks: int, expected: list[str]) -> None:
    """Domains get ranks by their cores, and a domain's ranks equal blocks of its cores; the rest idles."""
    assert expected == _arranged(cores, n_ranks)


@pytest.mark.parametrize(
    ("cores", "n_ranks", "expected"),
    [
        ([[2] * 4] * 2, 1, ["0-15"]),
        ([[2] * 4] * 2, 2, ["0-7", "8-15"]),
        ([[2] * 4] * 2, 3, ["0-3", "4-7", "8-15"]),
        ([[2] * 4] * 2, 5, ["0-1", "2-5", "6-7", "8-11", "12-15"]),
        ([[2] * 2] * 4, 3, ["0-3", "4-11", "12-15"]),
        ([[2] * 3] * 2, 5, ["0-1", "2-3", "4-5", "6-9", "10-11"]),
        ([[2, 2], [8]], 2, ["0-3", "4-11"]),
    ],
)
def test_fewer_ranks_than_domains_have_whole_ones(cores: list[list[int]], n_ranks: int, expected: list[str]) -> None:
    """Every domain is used, by one rank only, and a rank stays in its package unless it has whole packages."""
    assert expected == _arranged(cores, n_ranks)


@pytest.mark.parametrize(
    ("cores", "n_ranks", "width", "expected"),
    [
        ([[4], [4]], 2, 3, ["0-2", "4-6"]),
        ([[4], [4]], 2, 1, ["0", "4"]),
        ([[4], [4]], 1, 3, ["0-2"]),
        ([[2, 8]], 1, 4, ["2-5"]),
        ([[4] * 2] * 2, 2, 6, ["0-5", "8-13"]),
        ([[4] * 2] * 2, 1, 12, ["0-11"]),
        ([[4] * 3], 2, 6, ["0-5", "6-11"]),
        ([[1, 4, 4]], 1, 6, ["1-6"]),
        ([[3, 3, 8]], 2, 6, ["0-5", "6-11"]),
        ([[3], [3]], 1, 5, ["0-4"]),
        ([[2], [3, 3]], 1, 5, ["2-6"]),
    ],
)
def test_cores_asked_for(cores: list[list[int]], n_ranks: int, width: int, expected: list[str]) -> None:
    """Each rank has exactly the cores asked for, of one domain if one has them, else of neighbours in a package."""
    assert expected == _arranged(cores, n_ranks, width)


@pytest.mark.parametrize(
    ("cores", "n_ranks", "width", "expected"),
    [
        ([[2], [2]], 5, None, ["0", "1", "0", "2", "3"]),
        ([[2], [2]], 8, 1, ["0", "1", "0", "1", "2", "3", "2", "3"]),
        ([[3], [3]], 3, 2, ["0-1", "0,2", "3-4"]),
        ([[2], [2]], 2, 3, ["0-2", "0-1,3"]),
    ],
)
def test_more_ranks_than_room_go_round(
    cores: list[list[int]], n_ranks: int, width: int | None, expected: list[str]
) -> None:
    """Ranks that must share are spread over domains in proportion and go round each one's cores."""
    assert expected == _arranged(cores, n_ranks, width)


@pytest.mark.parametrize(
    ("cores", "width", "expected"),
    [
        ([[4], [4]], None, 8),
        ([[4], [4]], 3, 2),
        ([[4], [4]], 5, 1),
        ([[4] * 2] * 2, 6, 2),
        ([[8, 3, 3]], 4, 3),
        ([[4], [4]], 9, 0),
        ([[8, 3], [3, 8]], 6, 3),
    ],
)
def test_capacity_counts_ranks_that_share_nothing(cores: list[list[int]], width: int | None, expected: int) -> None:
    """A domain holds as many ranks as its cores make; domains that are too small count together, per package."""
    assert expected == capacity(free_domains(made(cores), reserve=CpuSet()), cpus_per_rank=width)
