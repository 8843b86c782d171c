"""Starting the Dragon runtime for one job, and ending it with everything that belongs to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RuntimeUnusableError
from rankmap.runtime.services import slack_for_children

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rankmap.runtime.libpmix import Libpmix

__all__ = [
    "ControlDirectory",
    "Session",
    "dragon_command",
    "dropped",
    "in_runtime",
    "processes_of_group",
    "restored",
    "runtime_environment",
]

_LOG_LINES = 200
_UNIX_PATH_BYTES = 100
_END_GRACE_S = 10.0
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
    package = Path(__file__).parents[2]
    return {
        **environ,
        # Dragon calls its own helpers (dragon-config, ...) by name.
        "PATH": f"{command.parent}:{environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": _joined(*library_dirs, environ.get("LD_LIBRARY_PATH")),
        # rankmap itself, also where it is not installed but run from a checkout.
        "PYTHONPATH": _joined(str(package), environ.get("PYTHONPATH")),
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

    ``socket`` is where the supervisor listens; ``lib`` holds libpmix under the name that Dragon looks for.
    """

    def __init__(self) -> None:
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > _UNIX_PATH_BYTES - 40:
            base = "/tmp"  # noqa: S108 - a Unix socket's path holds 107 bytes; the directory made there is private
        self.path = Path(tempfile.mkdtemp(prefix="rankmap-", dir=base))
        self.socket = self.path / "socket"
        self.lib = self.path / "lib"

    def offer_libpmix(self, libpmix: Libpmix) -> tuple[str, ...]:
        """Return the directories that LD_LIBRARY_PATH needs for Dragon to find this libpmix by its own name.

        A link alone is not enough: the library looks for its own dependencies beside the link.
        """
        self.lib.mkdir()
        (self.lib / "libpmix.so").symlink_to(libpmix.path)
        return (str(self.lib), str(libpmix.path.parent))

    def remove(self) -> None:
        """Remove the directory and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


class Session:
    """A Dragon runtime of our own on this host, with the head in it.

    Dragon's stdout and stderr come back through one pipe; the last lines are kept to explain a failure. The runtime
    is one process group (``dragon`` makes itself its leader), which is how everything in it can be ended.
    """

    runtime_stays = False
    output_descriptors = (1, 2)

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.log: deque[bytes] = deque(maxlen=_LOG_LINES)
        self._rest = b""
        self._shared_memory: set[str] = set()

    @classmethod
    def start(cls, control: ControlDirectory, *, environ: Mapping[str, str]) -> Session:
        """Start ``dragon -s`` with the head, in this environment; return at once.

        Its working directory is the control directory: Dragon's dictionary leaves a file in it when it is killed.
        """
        head = [sys.executable, "-m", "rankmap.runtime.head", str(control.socket)]
        # process_group: a session leader makes Dragon hang, and Ctrl-C must reach rankmap only.
        with slack_for_children():
            process = subprocess.Popen(
                [str(dragon_command(environ)), "-s", *head],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                cwd=control.path,
                process_group=0,
            )
        assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        os.set_blocking(process.stdout.fileno(), False)
        return cls(process)

    def fileno(self) -> int:
        """Return the descriptor of Dragon's output, for selectors."""
        assert self.process.stdout is not None  # noqa: S101
        return self.process.stdout.fileno()

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

    def processes(self) -> list[int]:
        """Return the pids of this runtime: every process of its process group, services and ranks alike."""
        return processes_of_group(self.process.pid)

    def remember_shared_memory(self) -> None:
        """Note which /dev/shm files this runtime's processes have mapped, so that they can go with it."""
        for pid in self.processes():
            self._shared_memory |= _mapped_shared_memory(pid)

    def services(self, ranks: Collection[int]) -> list[int]:
        """Return the pids of this runtime's processes that are no ranks."""
        return [pid for pid in self.processes() if pid not in ranks]

    def end(self, *, head_pid: int) -> None:
        """End the runtime, wait until it is gone, and remove what it left.

        SIGTERM to the head is what ends Dragon cleanly (to ``dragon`` itself it leaves orphans); what is still there
        after that is killed.

        Args:
            head_pid: The head's pid; 0 when it never came.
        """
        self.remember_shared_memory()
        if head_pid and self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(head_pid, signal.SIGTERM)
            deadline_s = time.monotonic() + _END_GRACE_S
            while self.process.poll() is None and time.monotonic() < deadline_s:
                self.read_log()
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=0.05)
        self._kill_leftovers()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_END_GRACE_S)
        for name in self._shared_memory:
            Path(name).unlink(missing_ok=True)
        assert self.process.stdout is not None  # noqa: S101
        self.process.stdout.close()

    def _kill_leftovers(self) -> None:
        # Stopped first, so that nobody makes a file in /dev/shm after we have looked whose they are.
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self.remember_shared_memory()
        deadline_s = time.monotonic() + _END_GRACE_S
        while (left := self.processes()) and time.monotonic() < deadline_s:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
            self.process.poll()


def processes_of_group(process_group: int) -> list[int]:
    """Return the pids of the processes in this process group that still run (zombies do not).

    Source: proc_pid_stat(5), fields 3 (state) and 5 (pgrp).
    """
    pids = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - Path objects for a thousand pids take their time
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_bytes()  # the name in it may be cut inside a character
            except OSError:
                continue
            state, _, group = stat.rpartition(b")")[2].split()[:3]
            if int(group) == process_group and state not in b"ZX":
                pids.append(int(entry))
    return pids


def _mapped_shared_memory(pid: int) -> set[str]:
    try:
        text = Path(f"/proc/{pid}/maps").read_text()
    except (OSError, UnicodeDecodeError):
        return set()
    names = (line.partition("/dev/shm/")[2] for line in text.splitlines())  # noqa: S108 - reading a map, making no file
    return {f"/dev/shm/{name}" for name in names if name.startswith("DD") and " " not in name}  # noqa: S108
