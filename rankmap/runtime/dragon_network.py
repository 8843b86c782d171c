"""What Dragon is told of the network of several hosts that their agents have seen: ports, and the hosts themselves."""

from __future__ import annotations

import json
import random
from functools import reduce
from importlib.util import find_spec
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.runtime.network_config import RuntimeHost, network_config
from rankmap.runtime.starting import dragon_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rankmap.runtime.host_facts import HostFacts
    from rankmap.runtime.starting import Reach

__all__ = ["some_ports", "usual_transport", "words_for"]

_FIRST_PORT, _LAST_PORT = 10_000, 32_000
"""Above the services' ports, and below those that Linux gives to connections (ip(7), ip_local_port_range)."""

_N_ASKED = 24
_N_PORTS = 3
_FABRIC_LIBRARIES = ("ofi_runtime_lib", "ucx_runtime_lib")
_PORT_VARIABLE = "DRAGON_TRANSPORT_TCP_PORT"


def usual_transport(dragon: Path | None = None) -> str:
    """Return the transport for a job whose user has named none: "hsta" where Dragon has a fabric's library, else "tcp".

    Dragon itself takes HSTA wherever its binary is (launcher/frontend.py, _determine_transport_backend, 0.15), as in
    every wheel; over plain TCP it did not come up on 4 hosts (measured, docs/design/0011).

    Args:
        dragon: Dragon's package; None is the one beside rankmap.

    Source: ``dragon-config add --ofi-runtime-lib`` and ``--ucx-runtime-lib`` (infrastructure/config.py, 0.15).
    """
    if dragon is None:
        found = find_spec("dragon")
        if found is None or found.origin is None:
            return "tcp"
        dragon = Path(found.origin).parent
    try:
        configured = json.loads((dragon / ".hsta-config" / "dragon-config.json").read_text())
    except (OSError, ValueError):
        return "tcp"
    known = isinstance(configured, dict) and any(configured.get(name) for name in _FABRIC_LIBRARIES)
    return "hsta" if known else "tcp"


def some_ports() -> list[int]:
    """Return ports that every host is asked about, other ones for every job: Dragon's own are always the same."""
    return random.SystemRandom().sample(range(_FIRST_PORT, _LAST_PORT), _N_ASKED)


def words_for(reach: Reach, facts: Sequence[HostFacts], folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the options of ``dragon`` for these hosts, and variables for all of its processes on all of them.

    The file that the options name is written into this directory. Where the hosts have too few free ports in common,
    Dragon takes its own. Its TCP agents do not hear of ``--port``, but of a variable (docs/design/0005).
    """
    free = sorted(reduce(and_, (set(one.free_ports) for one in facts)))[:_N_PORTS]
    ports = free if len(free) == _N_PORTS else []
    file = folder / "network.json"
    if ports:
        hosts = [
            RuntimeHost(name=one.own_name, address=one.address, overlay_port=ports[1], boot_id=one.boot_id)
            for one in facts
        ]
        file.write_text(network_config(hosts))
    names = [one.name for one in facts]
    config = str(file) if ports else ""
    words = dragon_words(reach, names, network_config=config, ports=ports, folder=folder)
    return words, {_PORT_VARIABLE: str(ports[0])} if ports else {}
