"""The files in /dev/shm that a job has made, noticed when they are made, so that they can go with it however it ends.

Files there have no mark of who made them. So each new file is looked for among what the job's processes have mapped,
at once: when a runtime or a rank has crashed it is too late.

Source: inotify(7), proc_pid_maps(5).
"""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RuntimeUnusableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rankmap.runtime.processes import Found

__all__ = [
    "SharedMemory",
    "gib",
    "job_directory",
    "remove_directories",
    "require_room",
    "room_bytes",
]

_FOLDER = "/dev/shm"  # noqa: S108 - nothing is made there
_IN_CREATE = 0x100
_LOOKS_TO_JUDGE = 4
# What is made there for a job and nothing else: by Dragon, Open MPI (5 and 4), MPICH, Intel MPI, PSM2. A file of
# another name that a rank maps may be the user's own data.
_SEGMENTS = ("DD", "sm_segment.", "vader_segment.", "mpich_shar_tmp", "Intel_MPI_", "psm2_shm")

# Dragon 0.15 refuses to make a pool, or waits for ever, where the whole of it would not fit, although the files are
# sparse; a job of a few ranks touches some tens of MiB. Measured (docs/design/0005): 4 GiB is too little, 4.5 is not.
_POOL_VARIABLE = "DRAGON_DEFAULT_SEG_SZ"
_POOL_BYTES = 4 << 30
_LEAST_POOL_BYTES = 1 << 30
_SPARE_BYTES = 256 << 20


class SharedMemory:
    """Knows which files in /dev/shm are the job's.

    Args:
        processes: Returns the job's processes.
        late: Whether the job may have made files before this.
    """

    def __init__(self, processes: Callable[[], Iterable[Found]], *, late: bool = False) -> None:
        self._processes = processes
        self._others = set[str]() if late else _segments()
        self._judged: dict[str, int] = {}
        self.ours: set[str] = set()
        libc = ctypes.CDLL(None)
        self._inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        libc.inotify_add_watch(self._inotify, os.fsencode(_FOLDER), _IN_CREATE)

    def fileno(self) -> int:
        """Return a descriptor that can be read when a file was made; -1 where the kernel has no more of them."""
        return int(self._inotify)

    def look(self) -> bool:
        """Find out which of the new files are ``ours``; return whether any were made since the last look."""
        made = False
        with suppress(OSError):  # nothing more to read, or no inotify
            while os.read(self._inotify, 1 << 16):
                made = True
        new = _segments() - self._others - self.ours
        for process in self._processes() if new else ():
            self.ours |= new & _mapped(process.pid)
        for name in new - self.ours:  # somebody else's, if it is not mapped by ours after several looks
            self._judged[name] = self._judged.get(name, 0) + 1
            if self._judged[name] == _LOOKS_TO_JUDGE:
                self._others.add(name)
        return made or bool(new - self.ours - self._others)

    def remove(self) -> None:
        """Remove the job's files; its processes must have ended."""
        for name in self.ours:
            with suppress(OSError):
                Path(_FOLDER, name).unlink()


def room_bytes(environ: Mapping[str, str]) -> tuple[int, int, int]:
    """Return the bytes that are free in /dev/shm, those that it has, and those that Dragon needs.

    Raises:
        OSError: There is no such directory.
    """
    usage = shutil.disk_usage(_FOLDER)
    text = environ.get(_POOL_VARIABLE, "")
    pool_bytes = int(text) if text.isdecimal() else _POOL_BYTES
    return usage.free, usage.total, max(pool_bytes, _LEAST_POOL_BYTES) + _SPARE_BYTES


def require_room(environ: Mapping[str, str]) -> None:
    """Raise unless Dragon can make its memory pools in /dev/shm.

    Raises:
        RuntimeUnusableError: There is too little room.
    """
    try:
        free, total, needed = room_bytes(environ)
    except OSError as error:
        msg = f"{_FOLDER}: {error.strerror}; Dragon makes its memory pools there"
        raise RuntimeUnusableError(msg, hint=f"mount -t tmpfs tmpfs {_FOLDER}") from error
    if free < needed:
        msg = f"{_FOLDER} has {gib(free)} GiB free of {gib(total)}; Dragon needs {gib(needed)} GiB there to start"
        hint = (
            "free some, or enlarge it (docker: --shm-size=8g), or make Dragon's pool smaller:\n"
            f"  export {_POOL_VARIABLE}={_LEAST_POOL_BYTES}   # then {gib(_LEAST_POOL_BYTES + _SPARE_BYTES)} GiB do"
        )
        raise RuntimeUnusableError(msg, hint=hint)


def gib(n_bytes: int) -> str:
    """Return a number of bytes in GiB, with one decimal."""
    return f"{n_bytes / (1 << 30):.1f}"


def job_directory(job: str) -> Path:
    """Return where the MPI library of this job may put its shared memory.

    Its name differs from the control directory's, which is in /dev/shm too where TMPDIR says so.
    """
    return Path(_FOLDER, f"{job}.mpi")


def remove_directories(control: Path) -> None:
    """Remove a job's control directory, and the one in /dev/shm that has its name."""
    for directory in (control, job_directory(control.name)):
        shutil.rmtree(directory, ignore_errors=True)


def _segments() -> set[str]:
    with suppress(OSError):
        return {
            entry.name
            for entry in os.scandir(_FOLDER)
            if entry.name.startswith(_SEGMENTS) and entry.stat(follow_symlinks=False).st_uid == os.getuid()
        }
    return set()


def _mapped(pid: int) -> set[str]:
    try:
        text = Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return set()
    return {line.partition(f"{_FOLDER}/")[2] for line in text.splitlines()}
