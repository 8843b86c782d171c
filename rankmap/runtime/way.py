"""How an agent finds its place: at the supervisor, or at another agent that stands between them (branch.py)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankmap.runtime.entrance import OUTPUT
from rankmap.runtime.link import connect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rankmap.runtime.wire import Connection, Message

__all__ = ["Way", "find_way"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How an agent speaks to its supervisor.

    Args:
        messages: The connection to it, or to the agent that stands between it and us.
        output: The one for what the ranks write.
        below: Whether others come to us to speak to it.
        early: What it has said already.
    """

    messages: Connection
    output: Connection
    below: bool
    early: tuple[Message, ...]


def find_way(ticket: Mapping[str, Any], own_name: str) -> Way:
    """Tell the supervisor who we are, and go where it says: we stay with it, or speak to another agent.

    Args:
        ticket: What this agent was started with.
        own_name: What its host calls itself.

    Raises:
        OSError: We cannot get there.
    """
    secret, addresses = bytes.fromhex(ticket["secret"]), ticket["addresses"]
    who: Message = {
        "kind": "agent",
        "index": ticket.get("index"),
        "host": own_name,
        "names": [os.environ[name] for name in ("SLURMD_NODENAME",) if name in os.environ],
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid": os.getpid(),
    }
    messages = connect(addresses, secret)
    messages.send(who)
    answers: list[Message] | None = []
    while answers == []:
        answers = messages.receive()
    if answers is None:
        msg = "it has hung up"
        raise ConnectionError(msg)
    answer, *early = answers
    if answer["kind"] == "go":
        messages.close()
        addresses = answer["addresses"]
        messages = connect(addresses, secret)
        messages.send(who | {"index": answer["index"]})
    output = connect(addresses, secret)
    output.send({"kind": OUTPUT})
    return Way(messages=messages, output=output, below=answer["below"], early=tuple(early))
