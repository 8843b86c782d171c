from __future__ import annotations

import pytest

from rankmap.cpuset import CpuSet
from rankmap.mapping.default import arrange, capacity
from rankmap.processors import Domain, ground
from tests.topologies_made import made, with_caches, with_kinds


def _texts(domains: tuple[Domain, ...], n_ranks: int, cpus_per_rank: int | None = None) -> list[str]:
    blocks = arrange(domains, n_ranks=n_ranks, cpus_per_rank=cpus_per_rank)
    return [str(CpuSet.of(cpu for core in block for cpu in core.cpus)) for block in blocks]


def _arranged(cores: list[list[int]], n_ranks: int, cpus_per_rank: int | None = None) -> list[str]:
    return _texts(ground(made(cores)).domains, n_ranks, cpus_per_rank)


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
    assert expected == capacity(ground(made(cores)).domains, cpus_per_rank=width)


@pytest.mark.parametrize(
    ("caches", "n_ranks", "width", "expected"),
    [
        ([4, 4], 2, None, ["0-3", "4-7"]),
        ([4, 4], 3, None, ["0-1", "2-3", "4-5"]),
        ([3, 3, 2], 3, None, ["0-1", "3-4", "6-7"]),
        ([4, 4], 2, 3, ["0-2", "4-6"]),
        ([2, 6], 1, 3, ["2-4"]),
        ([3, 5], 2, None, ["0-2", "3-5"]),
        ([1, 7], 2, None, ["1-3", "4-6"]),
        ([5, 3], 1, None, ["0-7"]),
        ([3, 3, 2], 2, 4, ["0-3", "4-7"]),
    ],
)
def test_no_rank_straddles_caches_without_need(
    caches: list[int], n_ranks: int, width: int | None, expected: list[str]
) -> None:
    """Ranks of a domain are spread over its caches, each within one while that leaves it over half an even share."""
    assert expected == _texts(ground(with_caches(made([[8]]), 3, caches)).domains, n_ranks, width)


@pytest.mark.parametrize(
    ("n_ranks", "width", "expected"),
    [
        (1, None, ["0-3"]),
        (4, None, ["0", "1", "2", "3"]),
        (2, 2, ["0-1", "2-3"]),
        (5, None, ["0-1", "2-3", "4-5", "6-7", "8-9"]),
        (7, None, [str(i) for i in range(7)]),
        (12, None, [str(i) for i in range(12)]),
        (3, 4, ["0-3", "4-7", "8-11"]),
        (4, 2, ["0-1", "2-3", "4-5", "6-7"]),
    ],
)
def test_fast_cores_come_first(n_ranks: int, width: int | None, expected: list[str]) -> None:
    """Ranks take the fast cores while they do, then the others too, and none that has room lies on both kinds."""
    hybrid = with_kinds(made([[12]]), ("4-11", 700, "E"), ("0-3", 1000, "P"))
    assert expected == _texts(ground(hybrid).domains, n_ranks, width)


def test_capacity_has_no_rank_on_two_kinds() -> None:
    """What is left of the fast cores makes no rank with slow ones."""
    hybrid = with_kinds(made([[12]]), ("4-11", 700, "E"), ("0-3", 1000, "P"))
    assert [12, 6, 3, 3, 1] == [capacity(ground(hybrid).domains, cpus_per_rank=n) for n in (None, 2, 3, 4, 8)]


def test_favoured_cores_are_no_kind_of_their_own() -> None:
    """Cores that clock a little higher do not keep ranks off the rest."""
    favoured = with_kinds(made([[8]]), ("2-7", 5300, ""), ("0-1", 5500, ""))
    assert ["0-7"] == _texts(ground(favoured).domains, 1)
    assert ["0-3", "4-7"] == _texts(ground(favoured).domains, 2)
