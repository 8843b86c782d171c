from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError
from rankmap.runtime.doctor import Check, State, examine
from rankmap.topology import Gpu
from tests.stub_libraries import libpmix, program
from tests.topologies_made import made

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rankmap.errors import RankmapError
    from rankmap.topology import NodeTopology

NODE = made([[2], [2]], usable=CpuSet.parse("0-2"))
PMIX_5 = "PMIx 5.0.1 (x)"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a libpmix that can be used, and no dragon on PATH."""
    return {"RANKMAP_LIBPMIX": str(libpmix(tmp_path / "libpmix-doctor.so", PMIX_5)), "PATH": "/usr/bin:/bin"}


def checks(
    *argv: str, environ: Mapping[str, str], topology: NodeTopology | RankmapError = NODE, libhwloc: str = "API 2.9.0"
) -> dict[str, Check]:
    """Return what is examined, by name."""
    found = examine(argv, topology=topology, libhwloc=libhwloc, environ=environ)
    assert len(found) == len({check.what for check in found})
    return {check.what: check for check in found}


def test_all_that_a_launch_needs_is_looked_at(environ: dict[str, str], tmp_path: Path) -> None:
    """One line each, in a fixed order, and what is missing says what to do."""
    found = checks(str(program(tmp_path / "app")), environ=environ)
    names = ["Dragon", "libhwloc", "libpmix", "MPI library", "shared memory", "CPUs", "GPUs", "runtime"]
    assert names == list(found)
    assert [check.what for check in found.values() if check.state is State.MISSING and not check.todo] == []


def test_versions_and_places_are_shown(environ: dict[str, str], tmp_path: Path) -> None:
    """A person can tell which file is used."""
    found = checks(str(program(tmp_path / "app")), environ=environ)
    assert found["libpmix"].found == f"PMIx 5.0.1 ({environ['RANKMAP_LIBPMIX']})"
    assert found["libhwloc"].found == "API 2.9.0"
    assert found["Dragon"].found.startswith("0.15")
    assert found["CPUs"].found == "3 cores (CPUs 0-2) in 2 packages; CPUs 3 are not usable here"
    assert found["GPUs"].found == "none that hwloc sees"
    assert "GiB free of" in found["shared memory"].found


def test_gpus_are_counted_by_model(environ: dict[str, str]) -> None:
    """Without a model the vendor names them, without that the address."""
    gpus = [Gpu(pci_address="0:1", model="A100"), Gpu(pci_address="0:2", model="A100")]
    gpus += [Gpu(pci_address="0:3", vendor="AMD"), Gpu(pci_address="0:4")]
    found = checks("sh", environ=environ, topology=replace(NODE, gpus=tuple(gpus)))
    assert found["GPUs"].found == "2 x A100, 1 x AMD, 1 x 0:4"


def test_masks_that_make_no_sense_and_libraries_that_fail_are_worth_a_look(environ: dict[str, str]) -> None:
    """Neither is in the way of a job without GPUs."""
    masked = replace(NODE, gpu_remark="CUDA_VISIBLE_DEVICES=9: no such GPU")
    found = examine(("sh",), topology=masked, libhwloc="", environ=environ, failures=["NVML is broken"])
    (gpus,) = [check for check in found if check.what == "GPUs"]
    assert (State.WARNING, "CUDA_VISIBLE_DEVICES=9: no such GPU\nNVML is broken") == (gpus.state, gpus.found)


def test_a_missing_libpmix_is_in_the_way_and_the_rest_is_still_looked_at(environ: dict[str, str]) -> None:
    """One thing missing hides no other."""
    found = checks("sh", environ={**environ, "RANKMAP_LIBPMIX": "/nope"})
    assert found["libpmix"].state is State.MISSING
    assert "/nope" in found["libpmix"].found
    assert "pip install" in found["libpmix"].todo
    assert "runtime" in found


def test_a_missing_libhwloc_is_in_the_way(environ: dict[str, str]) -> None:
    """Without a topology there are no CPUs and GPUs to show."""
    found = checks("sh", environ=environ, topology=AllocationError("no libhwloc", hint="pip install x"), libhwloc="")
    expected = Check(what="libhwloc", state=State.MISSING, found="no libhwloc", todo="pip install x")
    assert expected == found["libhwloc"]
    assert {"CPUs", "GPUs"} & set(found) == set()


@pytest.mark.parametrize(("flavour", "state"), [("mpich", State.MISSING), ("openmpi5", State.OK)])
def test_an_application_is_judged_by_its_mpi(
    flavour: str, state: State, environ: dict[str, str], stub_mpi: Callable[[str], Path], tmp_path: Path
) -> None:
    """One that would come up as singletons is in the way."""
    check = checks(str(program(tmp_path / "app", needs=stub_mpi(flavour))), environ=environ)["MPI library"]
    assert state is check.state
    assert str(stub_mpi(flavour)) in check.found


def test_an_mpi_library_that_is_not_found_is_in_the_way(
    environ: dict[str, str], stub_mpi: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same words as under launch."""
    folder = tmp_path / "moved"
    folder.mkdir()
    library = folder / "libmpi.so.40"
    library.write_bytes(stub_mpi("openmpi5").read_bytes())
    app = program(tmp_path / "app", needs=library)
    library.unlink()
    check = checks(str(app), environ=environ)["MPI library"]
    assert (check.state, check.found) == (State.MISSING, f"{app} is linked to libmpi.so.40, which is not found")


def test_an_application_that_is_missing_is_in_the_way(environ: dict[str, str]) -> None:
    """And no MPI is made up for it."""
    found = checks("/no/app", environ=environ)
    assert (found["application"].state, "MPI library" in found) == (State.MISSING, False)


def test_no_mpi_is_worth_a_look_and_no_more(environ: dict[str, str], tmp_path: Path) -> None:
    """A program need not use MPI."""
    assert checks(str(program(tmp_path / "app")), environ=environ)["MPI library"].state is State.WARNING


def test_being_inside_a_runtime_is_said(environ: dict[str, str]) -> None:
    """Launch would use that one."""
    assert "inside a Dragon runtime" in checks("sh", environ={**environ, "DRAGON_MY_PUID": "1"})["runtime"].found
    assert "starts its own" in checks("sh", environ=environ)["runtime"].found


@pytest.mark.parametrize(("variable", "what"), [("RANKMAP_LIBPMIX", "libpmix"), ("RANKMAP_LIBHWLOC", "libhwloc")])
def test_the_command_ends_with_122_when_something_is_missing(variable: str, what: str) -> None:
    """``rankmap doctor`` is one screen on stdout, with what to do, whatever is missing."""
    done = subprocess.run(
        [sys.executable, "-m", "rankmap", "doctor", "--", "sh"],
        env={"PATH": "/usr/bin:/bin", variable: "/nope"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (122, "")
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith(what)] == [[what, "missing"]]
    assert any("/nope" in line for line in lines)
    assert any("->" in line for line in lines)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 120
