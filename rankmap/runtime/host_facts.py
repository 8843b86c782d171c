"""What an agent finds out about its host before anything of the job starts there, and what it makes ready."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankmap.codec import decode, encode
from rankmap.cpuset import CpuSet
from rankmap.plan_record import topology_digest
from rankmap.runtime import application
from rankmap.runtime.libpmix import find_libpmix, require_libpmix
from rankmap.runtime.processes import require_pidfd
from rankmap.runtime.rank_output import require_writable
from rankmap.runtime.session import ControlDirectory
from rankmap.runtime.shared_memory import require_room
from rankmap.topology import NodeTopology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rankmap.runtime.wire import Message

__all__ = ["HostFacts", "facts_of", "look"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """One host as its agent sees it.

    Args:
        name: What the user or the batch system calls it.
        own_name: What it calls itself (uname(2)).
        topology: Its topology, as a program in the job's environment has it.
        paths: The applications of the job's parts, as they are found there; "" for one that gets there only later.
        address: The IPv4 address at which the other hosts reach it.
        boot_id: What its kernel calls this boot.
        free_ports: Those of the ports that it was asked about that nobody uses there.
    """

    name: str
    own_name: str
    topology: NodeTopology
    paths: tuple[str, ...]
    address: str = ""
    boot_id: str = ""
    free_ports: tuple[int, ...] = ()


def look(
    message: Message,
    environ: Mapping[str, str],
    *,
    this_host: Callable[[Mapping[str, str], CpuSet], NodeTopology],
) -> tuple[dict[str, Any], ControlDirectory]:
    """Make the job's directories on this host, check what the job needs of it, and say what it is like.

    Args:
        message: ``control`` (the job's directory), ``kept`` (CPUs that its site keeps), ``commands`` (of each part,
            none for one that gets here only later), ``cwd``, ``set_env``, whether it needs ``libpmix``, and whether we
            are ``inside`` a runtime that was there before the job, which has its memory and must have its libpmix.
        environ: The job's environment.
        this_host: Reads the topology.

    Raises:
        RankmapError: Something that the job needs is not there.
    """
    control = ControlDirectory.at(Path(message["control"]))
    try:
        require_writable(control.path, what=f"the job's directory {control.path}")
        require_pidfd()
        if not message["inside"]:
            require_room(environ)
        library = find_libpmix(environ) if message["libpmix"] else None
        if library is not None and message["inside"]:
            require_libpmix(library, environ=environ)
        elif library is not None:
            control.offer_libpmix(library)
        found = [
            application.resolve(argv, cwd=Path(message["cwd"]), environ=environ, set_env=message["set_env"]).path
            if argv
            else ""
            for argv in message["commands"]
        ]
        shape, uuids = this_host(environ, CpuSet.parse(message["kept"])).without_uuids()
    except BaseException:
        control.remove()
        raise
    facts = {
        "own_name": os.uname().nodename,
        "digest": topology_digest(shape),
        "shape": encode(shape),
        "uuids": list(uuids),
        "paths": found,
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "free_ports": free_ports(message["ports"]),
    }
    return facts, control


def free_ports(ports: Iterable[int]) -> list[int]:
    """Return those of these TCP ports that nobody uses on this host."""
    free = []
    for port in ports:
        with suppress(OSError), socket.create_server(("", port)):
            free.append(port)
    return free


def facts_of(name: str, message: Message, shapes: dict[str, NodeTopology], *, address: str) -> HostFacts:
    """Return what an agent has found; equal hosts share one shape.

    Args:
        name: What its host is called.
        message: What ``look`` returned there.
        shapes: Those that are known, by digest; new ones are added.
        address: Where it has come from.
    """
    digest = message["digest"]
    if digest not in shapes:
        shapes[digest] = decode(NodeTopology, message["shape"], where=f"the topology of {name}")
    return HostFacts(
        name=name,
        own_name=message["own_name"],
        topology=shapes[digest].with_uuids(tuple(message["uuids"])),
        paths=tuple(message["paths"]),
        address=address,
        boot_id=message["boot_id"],
        free_ports=tuple(message["free_ports"]),
    )
