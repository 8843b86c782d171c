"""The file that tells Dragon its hosts."""

from __future__ import annotations

import json

import pytest

from rankmap.runtime.network_config import RuntimeHost, dragon_host_id, network_config


@pytest.mark.parametrize(
    ("boot_id", "host_id"),
    [
        ("a859a415-1d33-499f-b515-4a2c6aedacfa\n", 3717267214706336280),
        ("938b9025-e6d1-4dc2-0001-e962423dc58c", 738580940489571),
    ],
)
def test_a_host_has_the_number_that_dragon_gives_it(boot_id: str, host_id: int) -> None:
    """Measured: what ``dragon.utils.host_id()`` returned on machines with these boot ids."""
    assert host_id == dragon_host_id(boot_id)


def test_the_first_host_is_the_primary_one() -> None:
    """Dragon runs global services and the head there, whatever its number; the order is otherwise kept."""
    hosts = [
        RuntimeHost(name=name, address=f"10.0.0.{index}", overlay_port=6000 + index, boot_id=f"{9 - index:032x}")
        for index, name in enumerate(("b", "a"))
    ]
    config = json.loads(network_config(hosts))
    assert ["b", "a"] == [config[key]["host_name"] for key in ("0", "1")]
    assert [True, False] == [config[key]["is_primary"] for key in ("0", "1")]
    assert ["10.0.0.1:6001"] == config["1"]["ip_addrs"]
