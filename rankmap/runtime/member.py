"""One host's agent, as the fleet has it (fleet.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.wire import Connection, Message

__all__ = ["Member"]


@dataclass(slots=True, eq=False)
class Member:
    """One host's agent: what is known of it.

    Args:
        name: What the job calls its host.
        index: Its place among the hosts.
        connection: To it, while it speaks to us itself.
        father: The agent that stands between it and us, where one does.
        door: Where those come in that it stands before: addresses and ports.
        here: Whether it can be spoken to.
        own_name: What its host calls itself.
        boot: Which boot of a host that is.
        address: Where it came from.
        facts: What it has found there.
        problem: Exit status, reason and hint, where its host is of no use.
        over: Whether it has left nothing behind.
    """

    name: str
    index: int
    connection: Connection | None = None
    father: Member | None = None
    door: list[list[str | int]] | None = None
    here: bool = False
    own_name: str = ""
    boot: str = ""
    address: str = ""
    facts: HostFacts | None = None
    problem: tuple[int, str, str] | None = None
    over: bool = False

    def send(self, message: Message) -> None:
        """Say something to it; when it is gone the loop hears of that."""
        if self.father is not None:
            self.father.send({"kind": "for", "index": self.index, "message": message})
        elif self.connection is not None:
            self.connection.say(message)
