"""Stub MPI libraries, built once for all unit tests that read such files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.stub_libraries import library, mpi_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_OPEN_MPI, _MPICH = "ompi_mpi_comm_world", "MPICH configure: --prefix=/opt/mpich"
_FLAVOURS = {
    "openmpi5": ("libmpi.so.40", _OPEN_MPI, ""),
    "openmpi4": ("libmpi.so.40", _OPEN_MPI, "libopen-rte.so.40"),
    "mpich": ("libmpi.so.12", _MPICH, ""),
    "mpich-pmix": ("libmpi.so.12", f"{_MPICH} --with-pmi=pmix", ""),
    "mpich-linked-to-pmix": ("libmpich.so.12", _MPICH, "libpmix.so.2"),
    "mvapich": ("libmpi.so.12", "MV2_ENABLE_AFFINITY --with-pmi=pmix", ""),
    "intel": ("libmpi.so.12", "I_MPI_PMI_LIBRARY", ""),
    "cray-by-name": ("libmpi_cray.so.12", "-", ""),
    "cray-by-text": ("libmpi_gnu_123.so.12", "CRAY MPICH version 8.1.28", ""),
}
"""Flavour -> file name, a text that such a library holds, a library that it is linked to."""


@pytest.fixture(scope="session")
def stub_mpi(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that builds the stub of this flavour once, and returns its file; skip without a compiler."""
    root = tmp_path_factory.mktemp("mpi")

    def make(flavour: str) -> Path:
        name, text, needed = _FLAVOURS[flavour]
        target = root / flavour / name
        if not target.exists():
            needs = library(target.parent / needed, "int other;") if needed else None
            library(target, mpi_text(text), needs=needs)
        return target

    return make
