from __future__ import annotations

import os
import select
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from rankmap.errors import RuntimeUnusableError
from rankmap.runtime import shared_memory
from rankmap.runtime.shared_memory import SharedMemory, job_directory, remove_directories, require_room, room_bytes
from tests.children import LIMIT_S, family, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from rankmap.runtime.processes import Found
    from tests.children import Child

FOLDER = Path("/dev/shm")  # noqa: S108 - what is tested works there
GIB, MIB = 1 << 30, 1 << 20
MAPS = """
import mmap, sys
path, mode = sys.argv[1:]
with open(path, mode) as file:
    file.truncate(4096)
    memory = mmap.mmap(file.fileno(), 4096)
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def name() -> Iterator[Callable[[str], str]]:
    """Return a function that makes a name that no other file in /dev/shm has; the file is gone after the test."""
    names: list[str] = []

    def make(prefix: str) -> str:
        names.append(f"{prefix}_rankmap_test_{uuid4().hex}")
        return names[-1]

    yield make
    for each in names:
        (FOLDER / each).unlink(missing_ok=True)


def maps(file: str, mode: str = "x+b") -> AbstractContextManager[Child]:
    """Start a process that makes this file in /dev/shm and maps it."""
    return python(MAPS, str(FOLDER / file), mode)


def found(job: list[Child]) -> list[Found]:
    """Return the processes that are the job's by now."""
    return [process for child in job for process in family(child.pid)]


@pytest.mark.parametrize("prefix", ["DD", "sm_segment.", "vader_segment.", "mpich_shar_tmp", "Intel_MPI_", "psm2_shm"])
def test_what_the_jobs_processes_map_is_the_jobs_and_goes(prefix: str, name: Callable[[str], str]) -> None:
    """Dragon's pools and the segments of each MPI library, also when their process has ended after the look."""
    job: list[Child] = []
    memory = SharedMemory(partial(found, job))
    file = name(prefix)
    with maps(file) as process:
        job.append(process)
        assert process.hear() == "mapped"
        assert memory.look()
        assert memory.ours == {file}
    memory.look()
    memory.remove()
    memory.remove()
    assert not (FOLDER / file).exists()


def test_what_another_job_maps_is_left_alone(name: Callable[[str], str]) -> None:
    """Two jobs on one host end without each other."""
    job: list[Child] = []
    memory = SharedMemory(partial(found, job))
    ours, theirs = name("DD"), name("DD")
    with maps(ours) as process, maps(theirs) as other:
        job.append(process)
        assert (process.hear(), other.hear()) == ("mapped", "mapped")
        memory.look()
        memory.remove()
        assert ({ours}, False, True) == (memory.ours, (FOLDER / ours).exists(), (FOLDER / theirs).exists())


def test_a_file_that_was_there_before_is_left_alone(name: Callable[[str], str]) -> None:
    """Somebody else has made it, although the job maps it too."""
    file = name("DD")
    (FOLDER / file).touch()
    job: list[Child] = []
    memory = SharedMemory(partial(found, job))
    with maps(file, "r+b") as process:
        job.append(process)
        assert process.hear() == "mapped"
        memory.look()
        assert memory.ours == set()


def test_a_file_of_another_name_may_be_the_users_data(name: Callable[[str], str]) -> None:
    """It stays, although the job has made it."""
    file = name("results")
    job: list[Child] = []
    memory = SharedMemory(partial(found, job))
    with maps(file) as process:
        job.append(process)
        assert process.hear() == "mapped"
        memory.look()
        assert memory.ours == set()


def test_a_file_is_found_at_the_look_after_it_was_mapped(name: Callable[[str], str]) -> None:
    """At the look before it was there, but nobody's."""
    file = name("DD")
    job: list[Child] = []
    memory = SharedMemory(partial(found, job))
    (FOLDER / file).touch()
    memory.look()
    assert memory.ours == set()
    with maps(file, "r+b") as process:
        job.append(process)
        assert process.hear() == "mapped"
        memory.look()
        assert memory.ours == {file}


def test_a_process_that_has_ended_has_mapped_nothing() -> None:
    """Being too late is no error."""
    assert shared_memory._mapped(2**22 + 1) == set()


def test_whoever_waits_is_woken_when_a_file_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look says whether any was made since the one before."""
    monkeypatch.setattr(shared_memory, "_FOLDER", str(tmp_path))
    memory = SharedMemory(list)
    assert not memory.look()
    assert select.select([memory], [], [], 0)[0] == []
    for each in ("DD1", "other"):
        (tmp_path / each).touch()
        assert select.select([memory], [], [], LIMIT_S)[0] == [memory]
    assert [True] * 3 + [False] * 2 == [memory.look() for _ in range(5)]  # whose it is may be seen only later
    assert select.select([memory], [], [], 0)[0] == []


def test_without_such_a_directory_there_is_nothing_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minimal container may have none."""
    monkeypatch.setattr(shared_memory, "_FOLDER", "/no/such")
    memory = SharedMemory(list)
    assert not memory.look()
    memory.remove()
    assert memory.ours == set()


def test_the_jobs_directory_is_there_too() -> None:
    """By the job's name, and not the control directory's own, which may be there too."""
    assert FOLDER / "rankmap-x.mpi" == job_directory("rankmap-x")


def test_both_directories_of_a_job_go(tmp_path: Path, name: Callable[[str], str]) -> None:
    """With what is in them, and whether or not they are there."""
    control = tmp_path / name("rankmap")
    for directory in (control, job_directory(control.name)):
        (directory / "below").mkdir(parents=True)
        (directory / "file").touch()
    remove_directories(control)
    remove_directories(control)
    assert (False, False) == (control.exists(), job_directory(control.name).exists())


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (None, 4 * GIB + 256 * MIB),
        ("", 4 * GIB + 256 * MIB),
        ("4g", 4 * GIB + 256 * MIB),
        (str(2 * GIB), 2 * GIB + 256 * MIB),
        (str(16 * GIB), 16 * GIB + 256 * MIB),
        ("1048576", GIB + 256 * MIB),
    ],
)
def test_room_is_what_is_free_there_is_and_dragon_needs(text: str | None, needed: int) -> None:
    """DRAGON_DEFAULT_SEG_SZ is the size of the pool in bytes; Dragon itself needs 1 GiB at least."""
    free, total, needs = room_bytes({} if text is None else {"DRAGON_DEFAULT_SEG_SZ": text})
    status = os.statvfs(FOLDER)
    assert (total, needs) == (status.f_blocks * status.f_frsize, needed)
    assert 0 <= free <= total


def test_too_little_room_is_refused_with_what_to_do() -> None:
    """The message has the numbers, the hint the variable that makes Dragon take less."""
    with pytest.raises(RuntimeUnusableError) as caught:
        require_room({"DRAGON_DEFAULT_SEG_SZ": str(1 << 60)})
    total = f"{shutil.disk_usage(FOLDER).total / GIB:.1f}"
    assert f"GiB free of {total}; Dragon needs 1073741824.2 GiB there to start" in caught.value.message
    assert caught.value.message.startswith(f"{FOLDER} has ")
    assert "export DRAGON_DEFAULT_SEG_SZ=1073741824   # then 1.2 GiB do" in caught.value.hint


def test_enough_room_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to the last byte."""
    usage = shutil.disk_usage(FOLDER)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=GIB + 256 * MIB))
    require_room({"DRAGON_DEFAULT_SEG_SZ": str(GIB)})
    with pytest.raises(RuntimeUnusableError):
        require_room({"DRAGON_DEFAULT_SEG_SZ": str(GIB + 1)})


def test_no_shared_memory_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, and the command that makes it."""
    monkeypatch.setattr(shared_memory, "_FOLDER", "/no/such")
    with pytest.raises(RuntimeUnusableError, match="/no/such: No such file or directory; Dragon") as caught:
        require_room({})
    assert caught.value.hint == "mount -t tmpfs tmpfs /no/such"
