"""Starting the Dragon runtime for one job, and ending it with everything that belongs to it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RuntimeUnusableError
from rankmap.runtime.keeper import HEAD_GRACE_S, KILL_TIMEOUT_S, end_processes
from rankmap.runtime.mending import python_path
from rankmap.runtime.processes import adopt_orphans, descendants
from rankmap.runtime.services import RUNTIME, slack_for_children
from rankmap.runtime.shared_memory import SharedMemory, job_directory, remove_directories

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from rankmap.errors import RankmapError
    from rankmap.runtime.libpmix import Libpmix
    from rankmap.runtime.processes import Found
    from rankmap.runtime.services import Service

__all__ = [
    "ControlDirectory",
    "Session",
    "dragon_command",
    "dropped",
    "in_runtime",
    "restored",
    "runtime_environment",
]

_LOG_LINES = 200
_SHOWN_LOG_LINES = 15
_UNIX_PATH_BYTES = 100
_HEAD_EXITED = b"+++ head proc exited"


def in_runtime(environ: Mapping[str, str]) -> bool:
    """Return whether this process was started by Dragon (``dragon rankmap launch ...``)."""
    return "DRAGON_MY_PUID" in environ


def dragon_command(environ: Mapping[str, str]) -> Path:
    """Return the ``dragon`` command: the one beside this Python, else the first on PATH.

    Raises:
        RuntimeUnusableError: There is none.
    """
    beside = Path(sys.executable).with_name("dragon")
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("dragon", path=environ.get("PATH"))
    if found is None:
        msg = f"the Dragon runtime is not installed: no dragon beside {sys.executable} nor on PATH"
        raise RuntimeUnusableError(msg, hint="pip install dragonhpc")
    return Path(found)


def runtime_environment(
    environ: Mapping[str, str], *, control: ControlDirectory, library_dirs: tuple[str, ...]
) -> dict[str, str]:
    """Return the environment for Dragon: the user's, with what Dragon and the head need on top.

    The ranks get the user's values of the variables that this changes (``restored``).
    """
    command = dragon_command(environ)
    return {
        **environ,
        # Dragon calls its own helpers (dragon-config, ...) by name.
        "PATH": f"{command.parent}:{environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": _joined(*library_dirs, environ.get("LD_LIBRARY_PATH")),
        "PYTHONPATH": python_path(environ),
        # What Dragon and its PMIx server make there goes with the control directory, however they end.
        "TMPDIR": str(control.path),
    }


def restored(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that ``runtime_environment`` changes, as the ranks get them back.

    LD_LIBRARY_PATH is not among them: Dragon puts a directory of its own in front for the ranks.
    """
    return {name: environ.get(name) for name in ("PATH", "PYTHONPATH", "TMPDIR")}


def dropped(library_dirs: tuple[str, ...], *, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return those of our directories that the user's own LD_LIBRARY_PATH does not have: the ranks do without them."""
    users = environ.get("LD_LIBRARY_PATH", "").split(":")
    return tuple(path for path in library_dirs if path not in users)


def _joined(*parts: str | None) -> str:
    return ":".join(part for part in parts if part)


class ControlDirectory:
    """A directory of this job's own, readable by nobody else, gone when the job ends.

    ``socket`` is where the supervisor listens, ``door`` where the shims report: in a job on several hosts to an agent.
    ``lib`` holds libpmix under the name that Dragon looks for, ``bin`` commands that Dragon must not find elsewhere;
    ``shared_memory`` is a directory in /dev/shm that goes with it.
    """

    def __init__(self) -> None:
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > _UNIX_PATH_BYTES - 40:
            base = "/tmp"  # noqa: S108 - a Unix socket's path holds 107 bytes; the directory made there is private
        try:
            self._open(Path(tempfile.mkdtemp(prefix="rankmap-", dir=base)))
        except OSError as error:
            raise _no_directory(base, error) from error

    def _open(self, path: Path) -> None:
        self.path = path
        self.socket = self.door = path / "socket"
        self.lib = path / "lib"
        self.shared_memory = job_directory(path.name)
        try:
            self.shared_memory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            self.remove()
            msg = f"{self.shared_memory} cannot be made: {error.strerror}"
            raise RuntimeUnusableError(msg, hint="ranks share memory there: make room, or get permission") from error

    @classmethod
    def at(cls, path: Path) -> ControlDirectory:
        """Return the directory of a job whose supervisor is on another host, or on this one: the same path on all.

        Raises:
            RuntimeUnusableError: It cannot be made, or is somebody else's.
        """
        control = cls.__new__(cls)
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _no_directory(str(path.parent), error) from error
        if path.stat().st_uid != os.getuid():
            msg = f"{path} is somebody else's"
            raise RuntimeUnusableError(msg, hint="launch the job again: it gets another name")
        control._open(path)  # noqa: SLF001 - another way to make one
        return control

    def offer_libpmix(self, libpmix: Libpmix) -> tuple[str, ...]:
        """Return the directories that LD_LIBRARY_PATH needs for Dragon to find this libpmix by its own name.

        A link alone is not enough: the library looks for its own dependencies beside the link.
        """
        self.lib.mkdir(exist_ok=True)
        with suppress(FileExistsError):  # on the supervisor's own host both it and the agent offer it
            (self.lib / "libpmix.so").symlink_to(libpmix.path)
        return (str(self.lib), str(libpmix.path.parent))

    def offer_commands(self) -> tuple[Path, Path]:
        """Return two directories for the front of PATH: one for every runtime on several hosts, and one for some.

        Dragon calls ``dragon-cleanup`` when a start fails or it gets SIGTERM: it ends every Python program of the user
        on every host. The first directory has one that does nothing, the second an ``ssh`` that goes over the agents.
        """
        relay = shlex.join([sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("relay.py"))])
        return (
            self.offer_command("dragon-cleanup", "true"),
            self.offer_command("ssh", f'{relay} {shlex.quote(str(self.socket))} "$@"', folder="relay"),
        )

    def offer_command(self, name: str, command: str, *, folder: str = "bin") -> Path:
        """Make a command of this name that is this shell command, in a directory of ours; return the directory."""
        path = self.path / folder
        path.mkdir(exist_ok=True)
        file = path / name
        file.write_text(f"#!/bin/sh\nexec {command}\n")
        file.chmod(0o700)
        return path

    def remove(self) -> None:
        """Remove both directories and what is in them."""
        remove_directories(self.path)


def _no_directory(base: str, error: OSError) -> RuntimeUnusableError:
    msg = f"no directory can be made in {base}: {error.strerror}"
    return RuntimeUnusableError(msg, hint="make room there, or set TMPDIR to another place")


class Session:
    """A Dragon runtime of our own on this host, with the head in it, all below a keeper (keeper.py).

    Dragon's stdout and stderr come back through one pipe; the last lines are kept to explain a failure.
    """

    runtime_stays = False
    finish_timeout_s = 60.0
    interrupt_timeout_s = 4.0
    failure: RankmapError | None = None
    output_descriptors = (1, 2)

    def __init__(
        self, keeper: subprocess.Popen[bytes], link: socket.socket, others: frozenset[Found] = frozenset()
    ) -> None:
        self._others = {(process.pid, process.start) for process in others}
        self.keeper = keeper
        self.link = link
        self.log: deque[bytes] = deque(maxlen=_LOG_LINES)
        self._rest = b""
        self._shared_memory = SharedMemory(self._ours)

    @classmethod
    def start(cls, control: ControlDirectory, *, environ: Mapping[str, str], words: Sequence[str] = ("-s",)) -> Session:
        """Start the keeper, which starts ``dragon`` with the head, in this environment; return at once.

        ``words`` are Dragon's options: ``-s`` is a runtime on this host alone.

        The working directory is the control directory: Dragon's dictionary leaves a file in it when it is killed.
        """
        adopt_orphans()  # should the keeper be killed, what it kept is ours to end
        others = frozenset(descendants(os.getpid()))
        link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        head = [sys.executable, "-m", "rankmap.runtime.head", str(control.door)]
        keeper = [sys.executable, "-m", "rankmap.runtime.keeper", str(theirs.fileno()), str(control.path)]
        with slack_for_children():
            process = subprocess.Popen(
                [*keeper, str(dragon_command(environ)), *words, *head],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                cwd=control.path,
                process_group=0,  # Ctrl-C must reach rankmap only
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        os.set_blocking(process.stdout.fileno(), False)
        return cls(process, link, others)

    def fileno(self) -> int:
        """Return the descriptor of Dragon's output, for selectors."""
        assert self.keeper.stdout is not None  # noqa: S101
        return self.keeper.stdout.fileno()

    def read_log(self) -> list[bytes] | None:
        """Read what Dragon said since the last call; return its lines, None at the end of its output."""
        try:
            data = os.read(self.fileno(), 1 << 16)
        except BlockingIOError:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        lines = [line for line in lines if line.strip() and not line.startswith(_HEAD_EXITED)]
        self.log.extend(lines)
        return lines if data else None

    def log_tail(self) -> str:
        """Return the last lines that Dragon said, to go below a reason; "" where it said nothing."""
        return "".join(f"\n  dragon: {line.decode(errors='replace')}" for line in list(self.log)[-_SHOWN_LOG_LINES:])

    def read_link(self) -> str:
        """Read what the keeper says on ``link``; return what has ended, "" where that is nothing."""
        what, *names = self.link.recv(1 << 16).decode().split() or [""]
        if what == "made":
            self._shared_memory.ours.update(names)
            return ""
        return "dragon ended" if what == "ended" else f"rankmap's keeper (pid {self.keeper.pid}) ended"

    def services(self, ranks: Collection[int]) -> list[int]:
        """Return the pids of this runtime's processes that are no ranks, the keeper's and our own."""
        return [os.getpid(), self.keeper.pid] + [
            process.pid for process in descendants(self.keeper.pid) if process.pid not in ranks
        ]

    def vital(self, services: Iterable[Service]) -> list[Service]:
        """Return those without which there is no job; of the launcher's end the keeper tells."""
        return [service for service in services if service.name != RUNTIME]

    def left_by_ranks(self, services: Collection[int]) -> list[Found]:
        """Return what runs below the keeper and is no service: when the ranks have ended, what they have left."""
        return [process for process in descendants(self.keeper.pid) if process.pid not in services]

    def end(self, *, head_pid: int, force: bool, hurry: Callable[[], bool]) -> list[int]:
        """Return when nothing of the runtime is left, or the pids of what cannot be killed.

        Args:
            head_pid: The head's pid, by which Dragon ends cleanly; 0 where there is none.
            force: Whether to end everything at once instead.
            hurry: Whether it has to be by force after all, asked again and again.
        """
        with suppress(OSError):
            self.link.send(f"end {0 if force else head_pid}\n".encode())
        deadline_s = time.monotonic() + HEAD_GRACE_S + 2 * KILL_TIMEOUT_S
        while self.keeper.poll() is None and time.monotonic() < deadline_s:
            self.read_log()  # nobody may wait for room in the pipe
            if hurry():
                self.link.close()
            with suppress(subprocess.TimeoutExpired):
                self.keeper.wait(timeout=0.05)
        self.link.close()
        if self.keeper.returncode != 0 or self._ours():  # it was killed, or had not the time: its work is ours
            end_processes(self._ours, self._shared_memory, reap=self._reap)
        assert self.keeper.stdout is not None  # noqa: S101
        self.keeper.stdout.close()
        return [process.pid for process in self._ours()]

    def release(self) -> None:
        """Do nothing: the output goes to our own stdout and stderr."""

    def _ours(self) -> list[Found]:
        """Return what is left below this process, but what was there before (``exec > >(tee log); exec rankmap``)."""
        others: set[int] = set()
        result = []
        for process in descendants(os.getpid()):  # parents come before their children
            if (process.pid, process.start) in self._others or process.parent in others:
                others.add(process.pid)
            else:
                result.append(process)
        return result

    def _reap(self) -> None:
        self.keeper.poll()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
