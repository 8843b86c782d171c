"""Unit tests of rankmap.discovery.gpu_runtimes, with a stub of a run-time library (tests/rig/fakegpu.c)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankmap.discovery.gpu_runtimes import counted
from tests.stub_libraries import build

SOURCE = Path(__file__).parents[1] / "rig" / "fakegpu.c"
NO_CACHE = Path("/nonexistent")


def library(folder: Path, name: str, *flags: str) -> dict[str, str]:
    """Build the stub under this name; return the environment in which it is found."""
    build(folder / name, SOURCE.read_text(), "-shared", "-fPIC", *flags)
    return {"LD_LIBRARY_PATH": str(folder)}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, ("NVIDIA", 4)),
        ({"FAKE_NGPU": "2"}, ("NVIDIA", 2)),
        ({"CUDA_VISIBLE_DEVICES": "4,5,7"}, ("NVIDIA", 3)),
        ({"FAKE_NGPU": "0"}, ("", 0)),
    ],
)
def test_gpus_are_counted_by_nvidias_library(environ: dict[str, str], found: tuple[str, int], tmp_path: Path) -> None:
    """As many as the environment's mask leaves."""
    assert found == counted(library(tmp_path, "libcudart.so") | environ, cache=NO_CACHE)


def test_gpus_are_counted_by_amds_library(tmp_path: Path) -> None:
    """Where NVIDIA's shows none, or is broken."""
    environ = library(tmp_path, "libamdhip64.so", "-DHIP") | {"HIP_VISIBLE_DEVICES": "0,1"}
    assert counted(environ, cache=NO_CACHE) == ("AMD", 2)
    (tmp_path / "libcudart.so").write_text("no library")
    assert counted(environ, cache=NO_CACHE) == ("AMD", 2)


def test_a_toolkit_without_a_driver_is_not_asked(tmp_path: Path) -> None:
    """Libraries in the linker's cache: a machine to compile on has the one and not the other."""
    cache = tmp_path / "ld.so.cache"
    cache.write_bytes(b"\0libcudart.so\0/usr/lib/libcudart.so\0")
    assert counted({}, cache=cache) == ("", 0)
    assert counted({}, cache=NO_CACHE) == ("", 0)
