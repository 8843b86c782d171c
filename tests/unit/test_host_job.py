"""Unit tests of rankmap.runtime.host_job and host_facts: what goes to a host, and comes from it, over a link."""

from __future__ import annotations

import marshal
import os
import shutil
import socket
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, RankmapError
from rankmap.node_plan import NodePlan
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime.application import Application
from rankmap.runtime.host_facts import facts_of, look
from rankmap.runtime.host_job import HostJob
from rankmap.runtime.job import Verify
from rankmap.runtime.limits import Limits
from tests.topologies_made import allocation, interleaved, made, with_gpus, with_nics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rankmap.topology import Gpu, NodeTopology

_BARE = made([[2], [2]], smt=2, number=interleaved(4))
_GPUS = with_gpus(_BARE, 0, 1)
NODE = with_nics(
    replace(
        _GPUS,
        gpus=tuple(replace(gpu, vendor="NVIDIA", token=str(i), uuid=f"GPU-{i}") for i, gpu in enumerate(_GPUS.gpus)),
    ),
    0,
    None,
)


def no_gpus(_vendor: str) -> tuple[Gpu, ...]:
    """Return nothing: nobody looks."""
    return ()


@pytest.mark.parametrize("position", [0, 2])
def test_a_hosts_share_arrives_as_it_was_made(position: int) -> None:
    """All of it, by way of what marshal takes."""
    job = plan(allocation(NODE, NODE, NODE), request(ranks_per_node=2, gpus_per_rank=1, mem_bind="local"))
    share = HostJob(
        name="rankmap-x",
        plan=NodePlan.of(job, position),
        applications=(Application(path="/bin/true", argv=("true", "\udcff"), cwd="/", set_env={"A": "b", "C": None}),),
        head_pid=77,
        limits=Limits(slack_ns=50_000, n_files=1024),
        drop_paths=("/x/lib",),
        reserve=CpuSet.parse("0,4"),
        gpu_variables={"CUDA_VISIBLE_DEVICES": "0,1"},
        all_gpus=no_gpus,
        verify=Verify.WARN,
        watch_s=2.5,
        stdin_rank=3,
        inherited_ranks=frozenset({"PMI_RANK", "PALS_RANKID"}),
        defaults={"MPICH_OFI_NIC_POLICY": "NUMA"},
    )
    arrived = HostJob.from_values(marshal.loads(marshal.dumps(share.to_values())), all_gpus=no_gpus)  # noqa: S302
    assert share == arrived
    assert list(share.plan.iter_ranks()) == list(arrived.plan.iter_ranks())


def test_what_is_left_out_of_a_share_arrives_as_left_out() -> None:
    """The defaults are no values of another type."""
    share = HostJob(
        name="x",
        plan=NodePlan.of(plan(allocation(_BARE), request(n_ranks=1, bind_to="none")), 0),
        applications=(),
        head_pid=0,
        limits=Limits(slack_ns=0, n_files=1024),
        drop_paths=(),
        reserve=CpuSet(),
        gpu_variables={},
        all_gpus=no_gpus,
    )
    assert share == HostJob.from_values(marshal.loads(marshal.dumps(share.to_values())), all_gpus=no_gpus)  # noqa: S302


@pytest.fixture
def path() -> Iterator[Path]:
    """Return the name of a job's directory that is not there yet."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / f"rankmap-{uuid.uuid4()}"


def looked(path: Path, *commands: list[str], **more: object) -> dict[str, Any]:
    """Return what an agent is told to look at."""
    return {
        "kind": "look",
        "control": str(path),
        "kept": "",
        "commands": list(commands),
        "cwd": "/",
        "set_env": {},
        "libpmix": False,
        "inside": False,
        "ports": [],
        **more,
    }


def test_what_a_host_is_like_is_known_where_it_was_asked(path: Path) -> None:
    """Its topology to the last UUID, its own name, and where it has the applications, "" for one that is no host's."""
    environ = {"PATH": "/usr/bin:/bin"}
    asked: list[tuple[object, str]] = []

    def this_host(given: object, kept: CpuSet) -> NodeTopology:
        asked.append((given, str(kept)))
        return NODE

    facts, control = look(looked(path, ["sh", "-c", "x"], [], kept="0-1"), environ, this_host=this_host)
    control.remove()
    assert [(environ, "0-1")] == asked
    arrived = facts_of("n7", marshal.loads(marshal.dumps(facts)), {}, address="10.0.0.7")  # noqa: S302
    assert ("n7", os.uname().nodename, "10.0.0.7") == (arrived.name, arrived.own_name, arrived.address)
    assert (NODE, (shutil.which("sh", path=environ["PATH"]), "")) == (arrived.topology, arrived.paths)


def test_equal_hosts_share_one_shape(path: Path) -> None:
    """Whatever the UUIDs of their GPUs are: thousands of hosts are decoded once."""
    shapes: dict[str, NodeTopology] = {}
    hosts = []
    for i in range(2):
        node = replace(NODE, gpus=tuple(replace(gpu, uuid=f"GPU-{i}-{n}") for n, gpu in enumerate(NODE.gpus)))
        facts, control = look(looked(path), {}, this_host=lambda _environ, _kept, node=node: node)  # type: ignore[misc]
        control.remove()
        hosts.append(facts_of(f"n{i}", facts, shapes, address=""))
    assert 1 == len(shapes)
    assert [["GPU-0-0", "GPU-0-1"], ["GPU-1-0", "GPU-1-1"]] == [[g.uuid for g in one.topology.gpus] for one in hosts]


def test_the_jobs_directories_are_there_while_the_job_is(path: Path) -> None:
    """The same path as on the supervisor's host, as private."""
    _, control = look(looked(path), {}, this_host=lambda _environ, _kept: NODE)
    assert (path, True, True) == (control.path, path.is_dir(), control.shared_memory.is_dir())
    assert (0o700, 0o700) == (path.stat().st_mode & 0o777, control.shared_memory.stat().st_mode & 0o777)
    control.remove()
    assert (False, False) == (path.exists(), control.shared_memory.exists())


def fails(_environ: object, _kept: object) -> NodeTopology:
    """Find that hwloc does not work here."""
    msg = "no hwloc"
    raise AllocationError(msg, hint="install it")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"commands": [["./no-such-app"]]}, "no-such-app"),
        ({"commands": [["sh"]], "cwd": "/no/such/directory"}, "/no/such/directory"),
        ({}, "no hwloc"),
    ],
)
def test_a_host_that_lacks_something_keeps_nothing(message: dict[str, object], said: str, path: Path) -> None:
    """The error goes to the supervisor; the directories go at once."""
    with pytest.raises(RankmapError) as caught:
        look(looked(path) | message, {"PATH": os.defpath}, this_host=fails)
    assert said in caught.value.message
    assert not path.exists()


def test_ports_that_somebody_uses_are_not_offered(path: Path) -> None:
    """Of those that it was asked about."""
    with socket.create_server(("", 0)) as used, socket.create_server(("", 0)) as other:
        ports = [used.getsockname()[1], other.getsockname()[1]]
        other.close()
        facts, control = look(looked(path, ports=ports), {}, this_host=lambda _environ, _kept: NODE)
        control.remove()
    assert (ports[1],) == facts_of("n", facts, {}, address="").free_ports
