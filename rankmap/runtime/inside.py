"""A job in a Dragon runtime that somebody else started and will end: ours in it are the head, the ranks, no more."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RankmapError, RuntimeUnusableError
from rankmap.runtime.processes import JOB_VARIABLE, carrying, end_all, send_signal
from rankmap.runtime.services import RUNTIME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from rankmap.runtime.libpmix import Libpmix
    from rankmap.runtime.processes import Found
    from rankmap.runtime.services import Service
    from rankmap.runtime.session import ControlDirectory

__all__ = ["InsideSession", "launcher_descriptors", "require_libpmix", "wait_until_read"]

_END_GRACE_S = 5.0
_PAUSE_S = 0.02
_FIONREAD = 0x541B
_PIDFD_GETFD = 438  # the same number on every architecture since Linux 5.6
_CHECK_TIMEOUT_S = 20.0
_CHECK = "import ctypes, sys; ctypes.CDLL('libpmix.so').PMIx_Get_version"


class InsideSession:
    """The job's share of a runtime that is already there; the same interface as Session."""

    runtime_stays = True
    finish_timeout_s = 150.0  # closing a group may take two minutes where all cores are busy

    def __init__(self, job: str) -> None:
        self._job = job
        self._runtime = os.getpgid(0)
        self._services: set[int] = set()
        self.failure: RankmapError | None = None
        self.output_descriptors = launcher_descriptors()

    @classmethod
    def start(cls, control: ControlDirectory, *, on_failure: Callable[[], None]) -> InsideSession:
        """Return the session while the head is being started in this runtime, which may take for ever if that hangs.

        Args:
            control: The job's control directory.
            on_failure: Called, in another thread, when ``failure`` says why there will be no head.
        """
        session = cls(control.path.name)
        starting = threading.Thread(
            target=session._start_head, args=(str(control.socket), on_failure), name="rankmap-start-head", daemon=True
        )
        starting.start()
        return session

    def _start_head(self, socket_path: str, on_failure: Callable[[], None]) -> None:
        from rankmap.runtime import dragon  # noqa: PLC0415 - only inside a runtime

        try:
            dragon.start_head(socket_path, job=self._job)
        except RankmapError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - Dragon raises whatever it likes; this is the boundary to it
            self.failure = RuntimeUnusableError(f"Dragon: {type(error).__name__}: {error}")
        if self.failure is not None:
            on_failure()

    def services(self, ranks: Collection[int]) -> list[int]:
        """Return the pids of the runtime itself and of what it started for this job, ranks excluded."""
        self._services = {process.pid for process in self._ours()} - set(ranks) | {self._runtime}
        return sorted(self._services)

    def log_tail(self) -> str:
        """Return nothing: what Dragon says goes to whoever started the runtime."""
        return ""

    def vital(self, services: Iterable[Service]) -> list[Service]:
        """Return those without which there is no job: the runtime's launcher among them."""
        return [service for service in services if service.name != RUNTIME or service.pid == self._runtime]

    def left_by_ranks(self, services: Collection[int]) -> list[Found]:
        """Return what belongs to the job and is no service: when the ranks have ended, what they have left."""
        return [process for process in self._ours() if process.pid not in services]

    def release(self) -> None:
        """Give back the launcher's descriptors, now that all output was written."""
        for descriptor in self.output_descriptors:
            if descriptor > 2:  # noqa: PLR2004 - not our own stdout and stderr
                os.close(descriptor)

    def end(self, *, head_pid: int, force: bool, hurry: Callable[[], bool]) -> list[int]:
        """Return when nothing of the job is left; the runtime and all else in it stay.

        What Dragon started for the job always gets its time to end by itself: a process that is killed while it talks
        to global services takes a place in their queue with it, and when all are gone every request waits for ever.

        Args:
            head_pid: The head's pid; 0 where there is none.
            force: Of no consequence here.
            hurry: Whether somebody wants it to be by force after all, asked again and again.

        Returns the pids of what cannot be killed.
        """
        del force
        self._wait(hurry)
        if head := next((process for process in self._ours() if process.pid == head_pid), None):
            send_signal(head, signal.SIGTERM)
            self._wait(hurry)
        end_all(self._ours, timeout_s=_END_GRACE_S)
        return [process.pid for process in self._ours()]

    def _wait(self, hurry: Callable[[], bool]) -> None:
        """Return when all is over, or after the grace; what ranks have left behind is killed meanwhile."""
        deadline_s = time.monotonic() + _END_GRACE_S
        while self._ours() and time.monotonic() < deadline_s and not hurry():
            for process in self.left_by_ranks(self._services) if self._services else ():
                send_signal(process, signal.SIGKILL)
            time.sleep(_PAUSE_S)

    def _ours(self) -> list[Found]:
        return carrying(JOB_VARIABLE, self._job)


def require_libpmix(libpmix: Libpmix, *, environ: Mapping[str, str]) -> None:
    """Raise unless the runtime around us can open ``libpmix.so``: where it cannot, the first PMI rank ends it all.

    The runtime is the leader of our process group; what it can open follows from the environment it was started in.

    Raises:
        RuntimeUnusableError: It cannot; the hint has the lines to start it with.
    """
    try:
        raw = Path(f"/proc/{os.getpgid(0)}/environ").read_bytes()
        path = next((v[16:] for v in raw.split(b"\0") if v.startswith(b"LD_LIBRARY_PATH=")), b"").decode()
    except OSError:
        path = environ.get("LD_LIBRARY_PATH", "")
    try:
        check = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHECK],
            env={**environ, "LD_LIBRARY_PATH": path},
            capture_output=True,
            check=False,
            timeout=_CHECK_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{sys.executable} could not open libpmix.so within {_CHECK_TIMEOUT_S:.0f} s"
        raise RuntimeUnusableError(msg, hint="is the file system that Python is on very slow?") from error
    if check.returncode != 0:
        msg = "this Dragon runtime was started where libpmix.so cannot be found; its first MPI rank would abort it"
        raise RuntimeUnusableError(
            msg,
            hint="leave starting the runtime to `rankmap launch`, or start it after\n"
            f"  mkdir -p ~/.rankmap/lib && ln -sf {libpmix.path} ~/.rankmap/lib/libpmix.so\n"
            f"  export LD_LIBRARY_PATH=~/.rankmap/lib:{libpmix.path.parent}:$LD_LIBRARY_PATH",
        )


def launcher_descriptors() -> tuple[int, int]:
    """Return descriptors of the stdout and stderr that ``dragon`` itself was given, for the ranks' output.

    What a process writes to its own stdout inside a runtime goes through Dragon's messages, at half a megabyte a
    second. Where the launcher's own cannot be had (it is on another host, or the kernel forbids it), it is 1 and 2.

    Source: pidfd_getfd(2); proc_pid_fd(5).
    """
    leader = os.getpgid(0)
    return _descriptor_of(leader, 1), _descriptor_of(leader, 2)


def _descriptor_of(pid: int, number: int) -> int:
    with suppress(OSError):
        pidfd = os.pidfd_open(pid)
        copy = ctypes.CDLL(None).syscall(_PIDFD_GETFD, pidfd, number, 0)
        os.close(pidfd)
        if copy >= 0:
            return int(copy)
        # Opened anew, a terminal or a pipe is as good; a file is not: each opening has a position of its own.
        path = f"/proc/{pid}/fd/{number}"
        kind = Path(path).stat().st_mode
        if stat.S_ISCHR(kind) or stat.S_ISFIFO(kind):
            # A pipe that nobody reads any more must not be waited for.
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
            return descriptor
    return number


def wait_until_read(fd: int, *, timeout_s: float) -> None:
    """Return when the reader of this pipe has read all that was written, or the time is over.

    Dragon reads its processes' output through pipes and throws away what is still in one soon after the process has
    ended. Something that is no pipe needs no waiting.

    Source: ioctl_pipe FIONREAD, pipe(7).
    """
    count = ctypes.c_int()
    libc = ctypes.CDLL(None)
    deadline_s = time.monotonic() + timeout_s
    while libc.ioctl(fd, _FIONREAD, ctypes.byref(count)) == 0 and count.value and time.monotonic() < deadline_s:
        time.sleep(0.01)
