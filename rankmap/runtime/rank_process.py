"""One rank of a running job, as the supervisor knows it, and what is said to its shim."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.devices import GPU_MASKS, GPU_VARIABLES
from rankmap.observe import Observation
from rankmap.runtime.memory_policies import policy_text
from rankmap.runtime.pmi_link import server_ports

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.placement import RankPlacement
    from rankmap.runtime.application import Application
    from rankmap.runtime.limits import Limits
    from rankmap.runtime.wire import Connection, Message

__all__ = ["RankProcess", "go", "pump_stdin"]


@dataclass(slots=True)
class RankProcess:
    """What is known of one rank.

    Args:
        number: Its MPI rank.
        connection: To its shim; None before the shim has reported and after the application was started.
        seen: What was observed; None before the shim has reported.
        pmi_ports: TCP ports of the PMIx server that it was offered (pmi_link.py).
        pidfd: Its pidfd_open(2) descriptor while it lives.
        released: Whether its shim was given leave to become the application.
        running: Whether the application was started.
        ended: Whether the process has ended; its exit code may not be known yet.
        end_order: Which rank of the job it was to end: 1 is the first; 0 while it lives.
        exit_code: As Dragon reports it; negative -N is signal N.
        ended_by_us: Whether its end is our doing: its exit code then says nothing about the job.
    """

    number: int
    connection: Connection | None = None
    seen: Observation | None = None
    pmi_ports: frozenset[int] = frozenset()
    pidfd: int | None = None
    released: bool = False
    running: bool = False
    ended: bool = False
    end_order: int = 0
    exit_code: int | None = None
    ended_by_us: bool = False

    def report(self, connection: Connection, message: Message) -> None:
        """Take over what the shim saw; ``pidfd`` stays None when it has ended meanwhile."""
        self.connection = connection
        self.seen = Observation(
            rank=self.number,
            host=message["host"],
            pid=message["pid"],
            cpus=CpuSet.of(message["cpus"]),
        )
        self.pmi_ports = server_ports(message["pmix_uris"])
        with suppress(ProcessLookupError):
            self.pidfd = os.pidfd_open(message["pid"])

    def goes(self, message: Message) -> None:
        """Take over what the shim gives the application."""
        assert self.seen is not None  # noqa: S101 - it has reported
        self.seen = replace(self.seen, variables=message["variables"], mem=policy_text(message["mem"]))

    def end(self, number: signal.Signals) -> None:
        """Send this signal to the process; a shim that waits for leave is told to stop instead, unless it is SIGKILL.

        Between the leave and the exec nobody can tell shim and application apart, so from then on it is the signal.
        """
        if self.ended:
            return
        self.ended_by_us = True
        if self.pidfd is not None and (self.released or number is signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)
        elif self.connection is not None:
            with suppress(OSError):
                self.connection.send({"kind": "stop"})

    def release(self, message: Message, fds: Sequence[int]) -> None:
        """Give the shim leave to become the application (``go``), with its stdout and stderr, and stdin in front."""
        self.released = True
        if self.connection is not None:
            with suppress(BrokenPipeError, ConnectionResetError):  # it died: its pidfd tells
                self.connection.send(message, fds)

    def close_pidfd(self) -> None:
        """Give back the descriptor of a process that has ended."""
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def go(
    application: Application,
    placement: RankPlacement,
    *,
    variables: Mapping[str, str],
    gpu_variables: Mapping[str, str],
    drop_paths: Sequence[str],
    limits: Limits,
) -> Message:
    """Return the message that gives a shim leave to become the application (shim.py, ``become``).

    Of the variables that the user has not set the plan's come before these here. Dragon has set a variable of GPUs for
    every rank, and left others that contradict it: a rank without GPUs of its own has those of the caller
    (``gpu_variables``), one with some is not shown others by a mask of another API.
    """
    planned = dict(placement.env)
    of_gpus = {name: gpu_variables.get(name) for name in GPU_VARIABLES}
    if not planned.keys().isdisjoint(GPU_MASKS):
        of_gpus |= dict.fromkeys(GPU_MASKS)
    return {
        "kind": "go",
        "path": application.path,
        "argv": list(application.argv),
        "cwd": application.cwd,
        "slack_ns": limits.slack_ns,
        "n_files": limits.n_files,
        "mem": placement.mem or "",
        "shown": [*GPU_VARIABLES, *(name for name in planned if name not in GPU_VARIABLES)],
        "env": {
            "drop_paths": list(drop_paths),
            "set": {
                "RANKMAP_RANK": str(placement.rank),
                "RANKMAP_LOCAL_RANK": str(placement.local_rank),
                **variables,
                **of_gpus,
                **planned,
                **application.set_env,
            },
        },
    }


def pump_stdin() -> int:
    """Return the read end of a pipe into which a thread copies this process's standard input."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    def copy() -> None:
        with suppress(OSError):  # the rank has had enough, or the terminal is gone
            while data := os.read(0, 1 << 16):
                view = memoryview(data)
                while view:
                    view = view[os.write(write_end, view) :]
        os.close(write_end)

    threading.Thread(target=copy, name="rankmap-stdin", daemon=True).start()
    return read_end
