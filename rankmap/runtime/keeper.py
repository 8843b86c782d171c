"""The keeper: owns every process of a job's runtime, and ends them all, also when the supervisor was killed.

Run as ``python -m rankmap.runtime.keeper LINK CONTROL COMMAND...`` by session.py. It starts the command (``dragon``)
as its child and adopts whatever loses its parent below it, so nothing of the job can get away: daemons, orphans of a
runtime that crashed. It notes what they make in /dev/shm. Else it sleeps. LINK is a socket to the supervisor:

* it says ``end PID``: send SIGTERM to the head, which ends Dragon cleanly; kill what is still there after that;
* its end closes (SIGKILL, out of memory): kill everything at once.

After either end nothing is left: no process, no shared memory, no control directory. The keeper says ``made NAME...``
when it has found new files in /dev/shm, should it be killed too, and ``ended`` when the command has ended by itself.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from socket import MSG_DONTWAIT, socket
from typing import TYPE_CHECKING, Any

from rankmap.runtime.processes import adopt_orphans, descendants, end_all, send_signal
from rankmap.runtime.shared_memory import SharedMemory, remove_directories

if TYPE_CHECKING:
    from collections.abc import Callable

    from rankmap.runtime.processes import Found

__all__ = ["HEAD_GRACE_S", "KILL_TIMEOUT_S", "Keeper", "end_processes", "main"]

HEAD_GRACE_S = 10.0
KILL_TIMEOUT_S = 10.0
# A file is mapped a moment after it was made, and seldom comes alone: a hundred ranks make a hundred.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Keeper:
    """What the keeper knows: the command that it started, and the shared memory that its processes have mapped."""

    def __init__(self, link: socket, command: list[str]) -> None:
        self.link = link
        self.shared_memory = SharedMemory(partial(descendants, os.getpid()))
        # What is caught here is not caught in the command; what were ignored would be ignored there too.
        for number in (*_SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self.woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        # A process group of its own, because the terminal's Ctrl-C is the supervisor's business; not a session: the
        # leader of one makes Dragon hang.
        try:
            self.command_pid = os.posix_spawn(
                command[0], command, os.environ, setpgroup=0, setsigdef=_IGNORED_BY_PYTHON
            )
        except OSError as error:
            msg = f"{command[0]} cannot be started: {error.strerror}"
            raise SystemExit(msg) from error
        self.command_ended = False

    def run(self) -> None:
        """Serve the supervisor until it says that the job is to end, or is gone; then end it."""
        look_s: float | None = None
        pause_s = _FIRST_PAUSE_S
        while True:
            wait_s = None if look_s is None else max(0.0, look_s - time.monotonic())
            made = [self.shared_memory] if look_s is None and self.shared_memory.fileno() >= 0 else []
            watched: list[Any] = [self.link, self.woken, *made]
            readable, _, _ = select.select(watched, [], [], wait_s)
            if self.link in readable:
                self.end(head_pid=self._hear())
                return
            if self.woken in readable:
                self.reap()
            now_s = time.monotonic()
            if self.shared_memory in readable:
                pause_s = _FIRST_PAUSE_S
                look_s = now_s + pause_s
            elif look_s is not None and now_s >= look_s:
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                look_s = now_s + pause_s if self.look() else None

    def look(self) -> bool:
        """Look for new shared memory, and tell the supervisor; return whether there is reason to look again."""
        known = set(self.shared_memory.ours)
        made = self.shared_memory.look()
        if new := self.shared_memory.ours - known:
            self._tell("made", *new)
        return made

    def end(self, *, head_pid: int) -> None:
        """End every process of the job and remove its shared memory; by the head first where it has one."""
        if head_pid:
            for process in descendants(os.getpid()):
                if process.pid == head_pid:
                    send_signal(process, signal.SIGTERM)
            deadline_s = time.monotonic() + HEAD_GRACE_S
            while not self.command_ended and (left_s := deadline_s - time.monotonic()) > 0:
                watched: list[Any] = [self.link, self.woken]
                if self.link in select.select(watched, [], [], left_s)[0]:
                    break  # the supervisor is gone, or in a hurry
                self.reap()
        end_processes(partial(descendants, os.getpid()), self.shared_memory, reap=self.reap)

    def reap(self) -> None:
        """Wait for the children that have ended."""
        with suppress(BlockingIOError):
            os.read(self.woken, 4096)
        with suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                if pid == self.command_pid:
                    self.command_ended = True
                    self._tell("ended")

    def _hear(self) -> int:
        """Return the pid of the head that is to end; 0 where the supervisor does not say one or is gone."""
        with suppress(OSError):  # gone before it has read all that it was told
            if words := self.link.recv(4096).split():
                return int(words[1])
        return 0

    def _tell(self, *words: str) -> None:
        with suppress(OSError):  # it is gone, or does not listen
            self.link.send(" ".join(words).encode(), MSG_DONTWAIT)


def end_processes(find: Callable[[], list[Found]], shared_memory: SharedMemory, *, reap: Callable[[], None]) -> None:
    """Kill every process that ``find`` returns, and remove what they had in /dev/shm.

    A process that waits in the kernel for a file system may not die; after ``KILL_TIMEOUT_S`` it is left to that.
    """
    # Stopped first, so that nobody makes a file after we have looked whose they are.
    for process in find():
        send_signal(process, signal.SIGSTOP)
    shared_memory.look()
    end_all(find, timeout_s=KILL_TIMEOUT_S, meanwhile=reap)
    shared_memory.remove()


def main(link: int, control: str, command: list[str]) -> int:
    """Start the command and keep it; return when nothing of it is left."""
    adopt_orphans()
    own = os.dup(link)  # not inherited, as everything that Python opens
    os.close(link)
    try:
        Keeper(socket(fileno=own), command).run()
    finally:
        remove_directories(Path(control))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
