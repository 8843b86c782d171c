"""The file that tells Dragon which hosts there are (``dragon --network-config``), so that it does not ask them itself.

Without it Dragon starts a helper on every host, waits for all in a busy loop (1.2 s on two idle hosts), and leaves a
file in each host's TMPDIR. With it the first host is also the one that runs global services and the head.

Source: Dragon 0.15.0, launcher/network_config.py (``NetworkConfig.from_file``), infrastructure/node_desc.py
(``NodeDescriptor.from_sdict``); seen working in docs/design/0005-dragon-faults.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["RuntimeHost", "dragon_host_id", "network_config"]

_ACTIVE = 4  # NodeDescriptor.State.ACTIVE
_ID_DIGITS = 16
_ID_BASE = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeHost:
    """One host of a runtime.

    Args:
        name: What Dragon calls it from then on, and what its ``ssh`` is given.
        address: The IPv4 address at which the other hosts reach it.
        overlay_port: A port that is free there, for Dragon's overlay network.
        boot_id: The text of its /proc/sys/kernel/random/boot_id.
    """

    name: str
    address: str
    overlay_port: int
    boot_id: str


def dragon_host_id(boot_id: str) -> int:
    """Return the number by which Dragon knows the host with this boot id.

    Dragon means to read the last 16 hex digits, and reads them to base 17 with a-f for 0-5.
    Source: dragonhpc 0.15.0, ``dragon.utils.host_id()``; measured values in tests/unit/test_network_config.py.
    """
    number = 0
    for digit in [digit for digit in boot_id.lower() if digit in "0123456789abcdef"][-_ID_DIGITS:]:
        number = number * _ID_BASE + (int(digit) if digit.isdecimal() else ord(digit) - ord("a"))
    return number % (1 << 64)


def network_config(hosts: Iterable[RuntimeHost]) -> str:
    """Return the file's text, JSON; the first host becomes the primary one."""
    return json.dumps(
        {
            str(index): {
                "state": _ACTIVE,
                "name": host.name,
                "host_name": host.name,
                "is_primary": index == 0,
                "ip_addrs": [f"{host.address}:{host.overlay_port}"],
                "host_id": dragon_host_id(host.boot_id),
            }
            for index, host in enumerate(hosts)
        },
        indent=1,
    )
