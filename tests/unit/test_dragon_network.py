"""Unit tests of rankmap.runtime.dragon_network: the ports and hosts that Dragon is told of, and where it is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rankmap.runtime.dragon_network import some_ports, usual_transport, words_for
from rankmap.runtime.host_facts import HostFacts
from rankmap.runtime.network_config import dragon_host_id
from rankmap.runtime.starting import Fabric, Kind, Reach
from tests.topologies_made import made

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NODE = made([[1]])
BOOTS = ["8f7d4a52-0d7c-4d5e-9d35-6c4c55ff54b1", "8f7d4a52-0d7c-4d5e-9d35-6c4c55ff54b2"]


def facts(*ports: Sequence[int]) -> list[HostFacts]:
    """Return those of hosts n0, n1 with these ports free."""
    return [
        HostFacts(
            name=f"n{i}",
            own_name=f"n{i}.site",
            topology=NODE,
            paths=(),
            address=f"10.0.0.{i + 1}",
            boot_id=BOOTS[i],
            free_ports=tuple(free),
        )
        for i, free in enumerate(ports)
    ]


def reach(kind: Kind = Kind.SSH, n_hosts: int = 2, *, whole: bool = True) -> Reach:
    """Return one of hosts n0, n1, ..."""
    hosts = tuple(f"n{i}" for i in range(n_hosts))
    return Reach(kind=kind, hosts=hosts, source="--hosts", whole=whole, fabric=Fabric(transport="tcp"))


def test_every_job_asks_for_other_ports() -> None:
    """Below those that the kernel gives to connections; two jobs of one host must not meet by habit."""
    ports = some_ports()
    assert (24, 24) == (len(ports), len(set(ports)))
    assert all(10_000 <= port < 32_000 for port in ports)
    assert ports != some_ports()


def test_ports_are_free_on_all_hosts(tmp_path: Path) -> None:
    """The lowest three of them: Dragon's own, the overlay's, which is in the file of hosts too, and the front end's."""
    words, variables = words_for(reach(), facts([11, 15, 14, 12, 13], [15, 14, 13, 12]), tmp_path)
    assert {"DRAGON_TRANSPORT_TCP_PORT": "12"} == variables
    file = tmp_path / "network.json"
    assert words == (
        *("--wlm", "ssh", "--hostlist", "n0,n1", "--network-config", str(file)),
        *("--port", "12", "--overlay-port", "13", "--frontend-port", "14", "--transport", "tcp"),
    )
    hosts = json.loads(file.read_text())
    assert [("n0.site", ["10.0.0.1:13"], True), ("n1.site", ["10.0.0.2:13"], False)] == [
        (hosts[i]["name"], hosts[i]["ip_addrs"], hosts[i]["is_primary"]) for i in ("0", "1")
    ]
    assert [dragon_host_id(boot) for boot in BOOTS] == [hosts[i]["host_id"] for i in ("0", "1")]


@pytest.mark.parametrize("free", [([], []), ([11, 12, 13], [14, 15, 16]), ([11, 12, 13], [12, 13])])
def test_without_ports_in_common_dragon_takes_its_own(free: tuple[list[int], list[int]], tmp_path: Path) -> None:
    """And asks its hosts itself."""
    assert (("--wlm", "ssh", "--hostlist", "n0,n1", "--transport", "tcp"), {}) == words_for(
        reach(), facts(*free), tmp_path
    )
    assert [] == list(tmp_path.iterdir())


def test_a_batch_systems_launcher_finds_the_hosts_itself(tmp_path: Path) -> None:
    """On the whole allocation; on a part of it the agents start Dragon."""
    ports = ("--port", "11", "--overlay-port", "12", "--frontend-port", "13", "--transport", "tcp")
    free = [11, 12, 13]
    assert ("--wlm", "slurm", *ports) == words_for(reach(Kind.SLURM), facts(free, free), tmp_path)[0]
    part, _ = words_for(reach(Kind.SLURM, 3), facts(free, free), tmp_path)
    assert ("--wlm", "ssh", "--hostlist", "n0,n1") == part[:4]
    assert part == words_for(reach(Kind.SLURM, whole=False), facts(free, free), tmp_path)[0]


@pytest.mark.parametrize(
    ("text", "transport"),
    [
        (None, "tcp"),
        ("{}", "tcp"),
        ("no json", "tcp"),
        ("[]", "tcp"),
        ('{"cuda_runtime_lib": "/cuda"}', "tcp"),
        ('{"ofi_runtime_lib": ""}', "tcp"),
        ('{"ofi_runtime_lib": "/opt/cray/libfabric/1.22.0/lib64"}', "hsta"),
        ('{"ucx_runtime_lib": "/ucx"}', "hsta"),
    ],
)
def test_the_fast_transport_is_taken_where_it_has_a_fabric(text: str | None, transport: str, tmp_path: Path) -> None:
    """Dragon would take it always, and fail."""
    if text is not None:
        (tmp_path / ".hsta-config").mkdir()
        (tmp_path / ".hsta-config" / "dragon-config.json").write_text(text)
    assert transport == usual_transport(tmp_path)
