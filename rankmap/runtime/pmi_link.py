"""Whether a rank is between MPI_Init and MPI_Finalize, seen from outside: by its connection to the PMIx server.

A PMIx client holds a TCP connection to its server from PMIx_Init to PMIx_Finalize, and MPI_Finalize is collective:
no rank gets past it before all have come to it. So when a rank has ended and others go on being connected, it has
ended without MPI_Finalize, be it by MPI_Abort or by plain exit, and the others wait for it for ever.

Source: PMIx Standard 5.0, 4.2 (PMIX_SERVER_URI in the client's environment); proc_pid_net(5), proc_pid_fd(5);
measured with Open MPI 5.0.11 (docs/design/0008-endings.md).
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.runtime import processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["connected", "server_ports"]

_URI = re.compile(r"tcp[46]://.*:(\d+)(?:;|$)")
_ESTABLISHED = "01"


def server_ports(uris: Iterable[str]) -> frozenset[int]:
    """Return the TCP ports in these PMIX_SERVER_URI values ("server-nspace-0.0;tcp4://127.0.0.1:59823")."""
    return frozenset(int(match[1]) for uri in uris if (match := _URI.search(uri)))


def connected(ranks: Mapping[int, tuple[int, frozenset[int]]]) -> frozenset[int]:
    """Return which of these ranks are connected to the PMIx server, themselves or through a program they started.

    Args:
        ranks: The pid and the ports of its server (``server_ports``) of each rank. A rank without ports, and one that
            we may not look into, counts as not connected.
    """
    running = processes.everything()
    sockets_of: dict[tuple[str, frozenset[int]], frozenset[str]] = {}
    result = set()
    for rank, (pid, ports) in ranks.items():
        for each in (pid, *(found.pid for found in processes.descendants(pid, running))) if ports else ():
            with suppress(OSError):  # it has ended, or is somebody else's
                key = os.readlink(f"/proc/{each}/ns/net"), ports  # noqa: PTH115 - a name, not a path
                if key not in sockets_of:
                    sockets_of[key] = _sockets(each, ports)
                if not sockets_of[key].isdisjoint(_open_files(each)):
                    result.add(rank)
    return frozenset(result)


def _sockets(pid: int, ports: frozenset[int]) -> frozenset[str]:
    """Return the connections to these ports in the network of this process, as ``_open_files`` names them."""
    # The columns of proc_pid_net(5), tcp: sl, local_address, rem_address, st, ..., inode (the tenth).
    lines = []
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            lines += [line.split() for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
    return frozenset(
        f"socket:[{line[9]}]"
        for line in lines
        if line[3] == _ESTABLISHED and int(line[2].rpartition(":")[2], 16) in ports
    )


def _open_files(pid: int) -> set[str]:
    found = set()
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):  # closed meanwhile
            found.add(os.readlink(descriptor.path))  # noqa: PTH115 - a rank may have thousands
    return found
