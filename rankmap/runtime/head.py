"""The head: the one process of rankmap inside the Dragon runtime. It does what the supervisor says, and nothing else.

Run as ``python -m rankmap.runtime.head SOCKET`` by ``dragon`` (or by Dragon's Process where a runtime is already
there). It tells the supervisor which nodes Dragon has, starts the ranks when told to, reports exit codes, and ends
when told to. It sleeps in recv(2) while there is nothing to do. When the supervisor is gone it kills the ranks and
ends, and the runtime ends with it.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import LaunchError, RankmapError
from rankmap.runtime.processes import JOB_VARIABLE, carrying, end_all
from rankmap.runtime.shared_memory import remove_directories
from rankmap.runtime.wire import Connection, Message

if TYPE_CHECKING:
    from rankmap.runtime.dragon import Group

__all__ = ["main"]

# While ranks have not reported through their shims, their death can only be seen by asking Dragon.
_POLL_S = 0.5
_SWEEP_S = 5.0


class Head:
    """The head's state: its connection to the supervisor and, once started, the group of ranks.

    Args:
        supervisor: The connection.
        runtime_stays: Whether the runtime goes on when the job has ended.
    """

    def __init__(self, supervisor: Connection, *, runtime_stays: bool) -> None:
        self.supervisor = supervisor
        self.runtime_stays = runtime_stays
        self.abandoned = False
        self.group: Group | None = None
        self.polling = False
        # Ranks that the supervisor has seen end and whose exit codes it does not know.
        self.awaited: set[int] = set()
        self.reported: set[int] = set()

    def run(self) -> None:
        """Serve the supervisor until it says ``finish`` or is gone."""
        from rankmap.runtime import dragon  # noqa: PLC0415 - the supervisor should know our pid before this takes time

        nodes = [asdict(node) for node in dragon.live_nodes()]
        self.supervisor.send({"kind": "nodes", "nodes": [_plain(node) for node in nodes]})
        while True:
            for message in self.next_messages():
                match message["kind"]:
                    case "start":
                        self.start(message)
                    case "quiet":
                        self.polling = False
                    case "reap":
                        self.awaited.update(set(message["ranks"]) - self.reported)
                    case "finish":
                        # A runtime of our own ends with this process and needs no tidying; closing the group in it
                        # took 1 s, and over a minute on a machine whose cores are all busy.
                        if self.group is not None and self.group.alive:
                            self.group.kill()
                        if self.group is not None and self.runtime_stays:
                            self.close(self.group)
                        return
                    case other:
                        msg = f"the head does not know the message {other!r}"
                        raise LaunchError(msg)

    def next_messages(self) -> list[Message]:
        """Return what the supervisor said; while polling, report ranks that ended and come back without a message."""
        if (self.polling or self.awaited) and self.group is not None and self.group.alive:
            self.report(self.group.ended(_POLL_S))
            if not select.select([self.supervisor], [], [], 0)[0]:
                return []
        messages = self.supervisor.receive()
        if messages is None:
            self.abandoned = True
            return [{"kind": "finish"}]
        return messages

    def close(self, group: Group) -> None:
        """Close the group of ranks; when nobody waits for us any more, only as long as it takes to be polite."""
        if not self.abandoned:
            group.close()
            return
        closing = threading.Thread(target=group.close, name="rankmap-close", daemon=True)
        closing.start()
        closing.join(_SWEEP_S)

    def start(self, message: Message) -> None:
        """Start the ranks."""
        from rankmap.runtime.dragon import Group, RankStart  # noqa: PLC0415 - see run

        starts = [
            RankStart(node_name=node, cpus=tuple(cpus), gpus=tuple(gpus)) for node, cpus, gpus in message["starts"]
        ]
        self.group = Group.start(
            starts, backend=message["backend"], socket_path=message["socket"], python=sys.executable
        )
        self.polling = True

    def report(self, codes: dict[int, int]) -> None:
        """Tell the supervisor which ranks ended, and how."""
        self.awaited.difference_update(codes)
        self.reported.update(codes)
        if codes:
            with suppress(BrokenPipeError):  # it is gone, as the next receive will tell
                self.supervisor.send({"kind": "ended", "codes": codes})


def _plain(node: dict[str, object]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in node.items()}


def main(socket_path: str, job: str = "") -> int:
    """Serve the supervisor that listens at this path; return the exit status of the head process.

    Args:
        socket_path: Where it listens.
        job: The job's name in a runtime that stays, where nobody else cleans up after a supervisor that was killed.
    """
    try:
        supervisor = Connection.connect(socket_path)
        supervisor.send({"kind": "head", "pid": os.getpid()})
    except OSError:
        if job:
            return 1  # it has ended meanwhile
        raise
    head = Head(supervisor, runtime_stays=bool(job))
    trouble: Message = {}
    try:
        head.run()
    except RankmapError as error:
        trouble = {"kind": "error", "message": error.message, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - Dragon raises whatever it likes; this is the boundary to it
        text = f"Dragon: {type(error).__name__}: {error}"
        trouble = {"kind": "error", "message": text, "hint": "", "traceback": traceback.format_exc()}
    if trouble:
        try:
            supervisor.send(trouble)
        except OSError:
            head.abandoned = True
    if head.abandoned and job:
        end_all(lambda: carrying(JOB_VARIABLE, job), timeout_s=_SWEEP_S)
        remove_directories(Path(socket_path).parent)
        os._exit(1)  # Dragon may still be closing the group, in a thread that cannot be ended
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
