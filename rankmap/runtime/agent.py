"""The agent: rankmap's process on each host of a job that has several. It owns that host for the job.

Run as ``python -m rankmap.agent`` by ssh, srun, mpiexec, drun or Dragon itself (starting.py), with a ticket
that says where the supervisor is and proves that it is ours: in RANKMAP_TICKET, else as a line on its standard input.
It looks at the host, starts what Dragon's launcher wants started there, has the hands (hands.py) work for the
supervisor, and passes on what the ranks write, on a connection of its own. Where there are many hosts some agents
stand between the supervisor and others (branch.py). Else it sleeps. When the supervisor says so, or is gone, nothing
of the job is left here: no process, no shared memory, no directory. When an agent was killed, another one with a
ticket that says ``clean`` does just that in its place, and goes (cleaning.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankmap.devices import GPU_MASKS
from rankmap.errors import RankmapError
from rankmap.runtime.branch import Branch
from rankmap.runtime.door import Door
from rankmap.runtime.hands import Hands
from rankmap.runtime.host_facts import look
from rankmap.runtime.host_job import HostJob
from rankmap.runtime.kept import Kept, clean_up_after
from rankmap.runtime.limits import raised_descriptor_limit, require_descriptors
from rankmap.runtime.live_gpus import gpu_variables
from rankmap.runtime.loop import Loop
from rankmap.runtime.output import Outlet, Writer
from rankmap.runtime.preloading import write_piece
from rankmap.runtime.processes import adopt_orphans, ancestors
from rankmap.runtime.way import find_way
from rankmap.runtime.wire import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rankmap.cpuset import CpuSet
    from rankmap.runtime.session import ControlDirectory
    from rankmap.runtime.way import Way
    from rankmap.runtime.wire import Connection, Message
    from rankmap.topology import Gpu, NodeTopology

    ThisHost = Callable[[Mapping[str, str], CpuSet], NodeTopology]

__all__ = ["DOOR", "TICKET_VARIABLE", "serve"]

TICKET_VARIABLE = "RANKMAP_TICKET"
DOOR = "door"
"""What the socket in the control directory is called at which shims and the head report."""

_END_GRACE_S = 5.0
_PAUSE_S = 0.2
_STDIN_PAUSE_S = 0.01
_STAY_S = 60.0  # longer than the supervisor waits (fleet.py), whose end or word ends it before
# What is this host's own, or the fabric's leave for what the batch system started here.
_KEPT_VARIABLES = ("SLURMD_NODENAME", "SLINGSHOT_")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Output:
    """Takes what the ranks write to the supervisor, in order, in a thread of its own."""

    def __init__(self, connection: Connection, wake: Callable[[], None]) -> None:
        self._outlet = Outlet(connection.fileno(), Writer(wake))

    def feed(self, rank: int, end: int, data: bytes) -> None:
        """Take what a rank has written."""
        self._outlet.write(frame(rank, end, data))

    def full(self, rank: int, end: int) -> bool:
        """Return whether no more should be read until there is room again."""
        del rank, end
        return self._outlet.writer.full

    def taken(self) -> bool:
        """Return whether nothing waits to be sent."""
        return self._outlet.writer.empty

    def close(self, *, timeout_s: float) -> None:
        """Return when all was sent, or the time is over."""
        self._outlet.writer.close(timeout_s=timeout_s)


class Agent:
    """One host's agent.

    Args:
        way: How it speaks to its supervisor.
        ticket: What it was started with.
        this_host: Reads this host's topology, of a job in this environment, the site keeping these CPUs.
        all_gpus: Returns a vendor's GPUs on this host, as they are when it is called.
    """

    def __init__(
        self,
        way: Way,
        *,
        ticket: Mapping[str, Any],
        this_host: ThisHost,
        all_gpus: Callable[[str], tuple[Gpu, ...]],
    ) -> None:
        self.supervisor = way.messages
        self._early = way.early
        self.this_host = this_host
        self.all_gpus = all_gpus
        self.control: ControlDirectory | None = None
        self.loop = Loop(_SIGNALS, self._on_wake)
        self.at_end = ExitStack()
        self.head: Connection | None = None
        self.copy: Message | None = None
        self.head_pid = 0
        self.stdin: int | None = None
        self.over = self.alone = False
        self.gentle = False
        self.environ: dict[str, str] = dict(os.environ)
        self.kept = Kept(ticket["job"], runtime_stays=ticket["stays"], above=ancestors())
        self.output = _Output(way.output, self.loop.wake)
        self.branch: Branch | None = None
        if way.below:
            self.branch = Branch(
                self.loop,
                secret=bytes.fromhex(ticket["secret"]),
                network_prefix=ticket["prefix"],
                tell=self.tell,
                take=self.output.feed,
                crowded=lambda: self.output.full(0, 0),
            )
        self.hands = Hands(self.loop, self.kept, self.output, tell=self.tell, stdin=self._open_stdin)

    def run(self) -> None:
        """Serve the supervisor until it says that the job is over, or is gone."""
        with self.loop, self.at_end:
            self.loop.call_when_readable(self.supervisor, self._on_supervisor)
            if self.kept.shared_memory.fileno() >= 0:
                self.loop.call_when_readable(self.kept.shared_memory, self._note_files)
            try:
                self._obey(self._early)
                while not self.over:
                    self.loop.step()
                    self.hands.after_step()
                    self.kept.reap()
            finally:
                self.end()

    def _note_files(self) -> None:
        if self.kept.shared_memory.look():  # they are mapped a moment after they were made
            self.loop.call_after(_PAUSE_S, self._note_files)

    def tell(self, message: Message) -> None:
        """Tell the supervisor; when it is gone the loop hears of that."""
        with suppress(OSError):
            self.supervisor.send(message)

    def end(self) -> None:
        """Leave nothing of the job."""
        if self.kept.runtime_stays:
            self.at_end.close()  # a head that comes now has nobody to serve
            if self.head is not None:  # it has been told to finish, or understands now that it has to
                self.head.close()
            self.kept.wind_down(head_pid=self.head_pid)
        elif self.gentle:
            self.kept.wait(timeout_s=_END_GRACE_S)
        stuck = self.kept.end()
        self.hands.close()
        if self.branch is not None:
            self._stay_for(self.branch)
        self.output.close(timeout_s=_END_GRACE_S)
        if self.control is not None:
            self.control.remove()
        self.tell({"kind": "over", "stuck": stuck})

    def _stay_for(self, branch: Branch) -> None:
        """Pass on what those below have to say, until they are gone too; without a supervisor they go by themselves."""
        end_s = time.monotonic() + _STAY_S
        while not (self.alone or branch.empty) and time.monotonic() < end_s:
            self.loop.call_after(_PAUSE_S, lambda: None)
            self.loop.step()
        branch.close()

    def _on_wake(self, signals: list[int]) -> None:
        self.hands.on_wake()
        if self.branch is not None:
            self.branch.resume()
        if signals:  # the batch system ends the job; the supervisor has got the same signal, or will see us go
            self.tell({"kind": "signalled", "number": signals[0]})

    def _on_supervisor(self) -> None:
        messages = self.supervisor.receive()
        if messages is None:
            self.over = self.alone = True
            self.loop.forget(self.supervisor)
        self._obey(messages or ())

    def _obey(self, messages: Sequence[Message]) -> None:
        for message in messages:
            try:
                self._do(message)
            except RankmapError as error:
                hint = error.hint
                self.tell({"kind": "trouble", "status": error.exit_status, "reason": error.message, "hint": hint})

    def _do(self, message: Message) -> None:
        match message["kind"]:
            case "for" | "all":
                self._pass_down(message)
            case "look":
                self._look(message)
            case "spawn":
                self._spawn(message["number"], message["command"], message["set"])
            case "head":
                self._tell_head(message["message"])
            case "copy" | "piece":
                self._copy(message)
            case "stdin":
                self._write_stdin(message["data"])
            case "prepare":
                job = HostJob.from_values(message["job"], all_gpus=self.all_gpus)
                if self.kept.runtime_stays:
                    job = replace(job, gpu_variables=gpu_variables(self.environ))
                require_descriptors(job.plan.n_ranks)
                self.hands.do({"kind": "prepare", "job": job})
            case "over":
                self.gentle = bool(message["gentle"])
                self.over = True
            case _:
                self.hands.do(message)

    def _pass_down(self, message: Message) -> None:
        if self.branch is not None:
            self.branch.say(message)
        if message["kind"] == "all":
            self._do(message["message"])

    def _tell_head(self, message: Message) -> None:
        if self.head is not None:
            with suppress(OSError):
                self.head.send(message)

    def _look(self, message: Message) -> None:
        """Take over the supervisor's environment, make the job's directories, and say what this host is like."""
        # In a runtime Dragon has given each process a mask with all GPUs of its host.
        kept = (*_KEPT_VARIABLES, *(GPU_MASKS if self.kept.runtime_stays else ()))
        own = {name: value for name, value in os.environ.items() if name.startswith(kept)}
        others = {name: value for name, value in message["environ"].items() if not name.startswith(kept)}
        self.environ = others | own | {"HOSTNAME": os.uname().nodename}
        os.environ.clear()
        os.environ.update(self.environ)
        facts, self.control = look(message, self.environ, this_host=self.this_host)
        self.at_end.enter_context(Door(self.loop, self.control.path / DOOR, self._take_in))
        self.tell({"kind": "looked", **facts})

    def _copy(self, message: Message) -> None:
        """Make a file, or write a piece of it; whoever was not told to make one has no part in it."""
        if message["kind"] == "copy":
            self.copy = message
            write_piece(message["path"], message["mode"])
        elif self.copy is not None:
            write_piece(self.copy["path"], self.copy["mode"], message["start"], message["data"])
        else:
            return
        self.tell({"kind": "copied"})

    # -- those of this host ---------------------------------------------------------------------------------------

    def _take_in(self, connection: Connection, message: Message) -> None:
        if message["kind"] == "shim":
            self.hands.take_in(connection, message)
            return
        if connection is not self.head:  # else it has said more at once
            self.head, self.head_pid = connection, message["pid"]
            self.loop.call_when_readable(connection, lambda: self._on_head(connection))
        self.tell({"kind": "head", "message": message})

    def _on_head(self, connection: Connection) -> None:
        messages = connection.receive()
        for message in messages or ():
            self.tell({"kind": "head", "message": message})
        if messages is None:
            self.loop.forget(connection)
            connection.close()
            self.head = None
            self.tell({"kind": "head", "message": None})

    def _spawn(self, number: int, command: str, variables: Mapping[str, str]) -> None:
        """Start what Dragon's launcher wants started on this host, and pass on what it says."""
        process = subprocess.Popen(  # noqa: S602 - Dragon writes a shell command, as for ssh
            command,
            shell=True,
            executable="/bin/bash",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environ, **variables},
            cwd="/",
            process_group=0,
        )
        self.kept.expect(process)
        open_ends = {1: process.stdout, 2: process.stderr}
        for end, pipe in open_ends.items():
            assert pipe is not None  # noqa: S101
            self.loop.call_when_readable(pipe, partial(self._pass_on, number, process, end, open_ends))

    def _pass_on(self, number: int, process: subprocess.Popen[bytes], end: int, open_ends: dict[int, Any]) -> None:
        pipe = open_ends[end]
        data = os.read(pipe.fileno(), 1 << 16)
        if data:
            self.tell({"kind": "said", "number": number, "end": end, "data": data})
            return
        self.loop.forget(pipe)
        pipe.close()
        del open_ends[end]
        if open_ends:
            return
        try:
            pidfd = os.pidfd_open(process.pid)  # it may go on without output
        except ProcessLookupError:
            self._tell_status(number, process.pid)
        else:
            self.loop.call_when_readable(pidfd, partial(self._on_exit, number, process.pid, pidfd))

    def _on_exit(self, number: int, pid: int, pidfd: int) -> None:
        self.loop.forget(pidfd)
        os.close(pidfd)
        self._tell_status(number, pid)

    def _tell_status(self, number: int, pid: int) -> None:
        self.tell({"kind": "exited", "number": number, "status": self.kept.status(pid)})

    def _open_stdin(self) -> int:
        read_end, self.stdin = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.stdin, False)
        self.tell({"kind": "stdin"})
        return read_end

    def _write_stdin(self, data: bytes, pause_s: float = _STDIN_PAUSE_S) -> None:
        """Write this for the rank that reads the caller's input, and ask for more when it has been taken.

        Who does not read is looked at less and less often: each look takes a core from a rank for a moment.
        """
        if self.stdin is None:
            return
        if not data:
            os.close(self.stdin)
            self.stdin = None
            return
        try:
            written = os.write(self.stdin, data)
        except BlockingIOError:
            written = 0
        except OSError:  # the rank has had enough
            os.close(self.stdin)
            self.stdin = None
            return
        if written < len(data):
            pause_s = _STDIN_PAUSE_S if written else min(2 * pause_s, _PAUSE_S)
            self.loop.call_after(pause_s, lambda: self._write_stdin(data[written:], pause_s))
        else:
            self.tell({"kind": "stdin"})


def _ticket(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the ticket.

    Raises:
        ValueError: There is none.
    """
    text = environ.get(TICKET_VARIABLE) or sys.stdin.readline()
    ticket: dict[str, Any] = json.loads(text)
    return ticket


def serve(this_host: ThisHost, all_gpus: Callable[[str], tuple[Gpu, ...]]) -> int:
    """Find the supervisor and serve it; return the exit status.

    Args:
        this_host: Reads this host's topology, of a job in this environment, the site keeping these CPUs.
        all_gpus: Returns a vendor's GPUs on this host, as they are when it is called.
    """
    try:
        ticket = _ticket(os.environ)
    except ValueError:
        sys.stderr.write("rankmap: this is started by `rankmap launch`, which hands it a ticket; there is none\n")
        return 2
    os.environ.pop(TICKET_VARIABLE, None)
    if "clean" in ticket:
        sys.stdout.write(clean_up_after(Path(ticket["clean"]), above=ancestors()) + "\n")
        return 0
    own_name = os.uname().nodename
    try:
        way = find_way(ticket, own_name)
    except OSError as error:
        sys.stderr.write(f"rankmap: {own_name} cannot reach the job's supervisor: {error}\n")
        return 1
    adopt_orphans()
    with raised_descriptor_limit():
        Agent(way, ticket=ticket, this_host=this_host, all_gpus=all_gpus).run()
    return 0
