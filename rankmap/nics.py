"""Which NICs a job's ranks can be given, and the variables that give a rank its own.

Sources, each variable in its own words:
* MPICH_OFI_NIC_POLICY=USER, MPICH_OFI_NIC_MAPPING: Cray MPICH, intro_mpi(3) (cpe.ext.hpe.com/docs/latest/mpt/mpich):
  "nic_idx:local_ranks; nic_idx:local_ranks", where local_ranks may have ranges; OLCF's Frontier guide, "NIC Mapping".
  A rank has exactly one NIC, and MPICH_OFI_NUM_NICS is how many the *job* uses on a node: it is not set here.
* FI_CXI_DEVICE_NAME: libfabric, fi_cxi(7): a comma separated list of CXI devices (cxi0,cxi1).
* UCX_NET_DEVICES: docs.open-mpi.org, "InfiniBand / RoCE support": mlx5_0:1, device and port; a comma separated list.
* NCCL_IB_HCA: docs.nvidia.com/deeplearning/nccl, "Environment Variables": a list, whose leading = is an exact match.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rankmap.placement import LocalPlacement, Plan
    from rankmap.topology import Nic, NodeTopology

__all__ = ["NIC_VARIABLES", "high_speed", "nic_environment", "with_cxi_devices", "with_nic_mapping"]

_FAST_NAME = re.compile(r"(?:hsi|hsn|cxi|ib)[a-z]*\d")
"""Interfaces of Slingshot (HPE, LLNL) and of IP over InfiniBand. Source: systemd.net-naming-scheme(7)."""

_SLINGSHOT = re.compile(r"(?:hsi|hsn|cxi)(\d+)")
"""Slingshot: the interface hsnN (LLNL: hsiN) is that of the device cxiN."""

_NO_VERBS = ("cxi", "bxi")
"""RDMA devices that hwloc shows beside InfiniBand's, and that neither UCX nor NCCL know by name."""


NIC_VARIABLES = (
    "MPICH_OFI_NIC_POLICY",
    "MPICH_OFI_NIC_MAPPING",
    "FI_CXI_DEVICE_NAME",
    "UCX_NET_DEVICES",
    "NCCL_IB_HCA",
)
"""All that a rank with NICs may be given for them."""


def high_speed(topology: NodeTopology) -> tuple[int, ...]:
    """Return the NICs that ranks can be given, as positions, in the order of their device names and numbers.

    These are those of a high-speed network: by its name, or an RDMA device without an interface. A node without one
    has Ethernet with RDMA, or just Ethernet. They are not mixed: a rank on RoCE does not reach one on InfiniBand.
    One whose port is down is no use to anybody.
    """
    nics = topology.nics
    linked = [i for i, nic in enumerate(nics) if nic.linked]
    fast = [i for i in linked if _FAST_NAME.match(nics[i].name) or nics[i].name == nics[i].fabric]
    found = fast or [i for i in linked if nics[i].fabric] or linked
    return tuple(sorted(found, key=lambda i: _in_order(nics[i])))


def _in_order(nic: Nic) -> list[tuple[int, str]]:
    """Return a key that sorts mlx5_2 before mlx5_10."""
    parts = re.findall(r"\d+|\D+", nic.fabric or nic.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [(-1, nic.name)]


def nic_environment(topology: NodeTopology, nics: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """Return the variables with which a rank uses these InfiniBand or RoCE NICs, given as positions; else none."""
    verbs = [i for i in nics if topology.nics[i].fabric and not topology.nics[i].fabric.startswith(_NO_VERBS)]
    if not verbs or _by_guess(topology, [topology.nics[i].name for i in verbs]):
        return ()
    ports = [f"{topology.nics[i].fabric}:{topology.nics[i].port}" for i in verbs]
    two_ports = {nic.fabric for nic in topology.nics if nic.port > 1}
    hcas = [
        topology.nics[i].fabric if topology.nics[i].fabric not in two_ports else ports[at] for at, i in enumerate(verbs)
    ]
    return (("UCX_NET_DEVICES", ",".join(ports)), ("NCCL_IB_HCA", "=" + ",".join(hcas)))


def _by_guess(topology: NodeTopology, names: Iterable[str]) -> bool:
    """Return whether nobody knows where one of these NICs is, and there are others: then the MPI library may choose."""
    chosen = [nic for nic in topology.nics if nic.name in set(names)]
    return len(high_speed(topology)) > 1 and any(not nic.cpus and not nic.numa for nic in chosen)


def _cxi_numbers(topology: NodeTopology) -> dict[str, int]:
    """Return the numbers of the node's CXI devices, by the name of their NIC."""
    found: dict[str, int] = {}
    for nic in topology.nics:
        match = _SLINGSHOT.fullmatch(nic.fabric or nic.name)
        if match is not None:
            found[nic.name] = int(match[1])
    return found


def with_nic_mapping(topology: NodeTopology, ranks: Sequence[LocalPlacement]) -> tuple[LocalPlacement, ...]:
    """Return the local ranks of a node with the variables that give each its Slingshot NIC, the first of its own.

    The text is the same for all ranks of the node. Cray MPICH counts a node's NICs in the order of their devices.
    """
    numbers = _cxi_numbers(topology)
    index = {number: i for i, number in enumerate(sorted(set(numbers.values())))}
    users: dict[int, list[int]] = {}
    for local_rank, rank in enumerate(ranks):
        if rank.nics and rank.nics[0] in numbers:
            users.setdefault(index[numbers[rank.nics[0]]], []).append(local_rank)
    if not users or _by_guess(topology, [rank.nics[0] for rank in ranks if rank.nics]):
        return tuple(ranks)
    text = "; ".join(f"{nic}:{CpuSet.of(users[nic])}" for nic in sorted(users))
    variables = (("MPICH_OFI_NIC_POLICY", "USER"), ("MPICH_OFI_NIC_MAPPING", text))
    return tuple(
        replace(rank, env=rank.env + variables) if rank.nics and rank.nics[0] in numbers else rank for rank in ranks
    )


def with_cxi_devices(plan: Plan) -> Plan:
    """Return the plan with FI_CXI_DEVICE_NAME for ranks with Slingshot NICs.

    Only for MPI libraries other than Cray MPICH: that counts the NICs that libfabric shows, so with a rank's own only
    the numbers of MPICH_OFI_NIC_MAPPING would be wrong.
    """
    layouts = []
    for layout in plan.layouts:
        numbers = _cxi_numbers(plan.allocation.shapes[layout.shape_index])
        layouts.append(replace(layout, ranks=tuple(_with_cxi(rank, numbers) for rank in layout.ranks)))
    return replace(plan, layouts=tuple(layouts))


def _with_cxi(rank: LocalPlacement, numbers: dict[str, int]) -> LocalPlacement:
    devices: Iterable[str] = [f"cxi{numbers[name]}" for name in rank.nics if name in numbers]
    value = ",".join(devices)
    return replace(rank, env=(*rank.env, ("FI_CXI_DEVICE_NAME", value))) if value else rank
