"""Unit tests of rankmap.cli.reaching: the hosts that a launch is for, from the batch job around it or from --hosts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rankmap.cli import reaching
from rankmap.cli.reaching import reach_of, without_left_out
from rankmap.errors import AllocationError, UsageError
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime.host_choice import HostChoice
from rankmap.runtime.starting import Fabric, Kind, Reach
from rankmap.topology import Allocation
from tests.topologies_made import made

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rankmap.layout import LayoutSpec

OWN = os.uname().nodename
FABRIC = Fabric(transport="tcp", network_prefix="^hsn")
NODE = made([[2]])
SLURM = {"SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": "n[1-4]"}
ALL = ("n1", "n2", "n3", "n4")
INSIDE = {**SLURM, "DRAGON_MY_PUID": "7"}


def reached(environ: Mapping[str, str], *specs: LayoutSpec, **choice: int) -> Reach | None:
    """Return how the hosts of such a launch are reached."""

    def say(text: str) -> None:
        raise AssertionError(text)

    chosen = HostChoice(**choice)  # type: ignore[arg-type]
    return reach_of(specs, None, environ=environ, fabric=FABRIC, choice=chosen, say=say)


def hosts(environ: Mapping[str, str], *specs: LayoutSpec, **choice: int) -> tuple[str, ...]:
    """Return only which."""
    reach = reached(environ, *specs, **choice)
    return () if reach is None else reach.hosts


def of(*names: str) -> Allocation:
    """Return an allocation of these hosts."""
    return Allocation.of(tuple((name, NODE) for name in names))


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """Return a file of hosts as PBS and dhosts have it."""
    file = tmp_path / "nodes"
    file.write_text("x1\nx1\nx2\nx2\n")
    return file


def test_the_hosts_of_a_batch_job_are_those_of_the_launch(nodes: Path) -> None:
    """Each batch system's launcher gets processes onto them."""
    expected = Reach(kind=Kind.SLURM, hosts=ALL, source="SLURM_JOB_NODELIST", named=ALL, fabric=FABRIC)
    assert expected == reached(SLURM, request())
    both = ("x1", "x2")
    source = f"PBS_NODEFILE {nodes}"
    pbs = Reach(kind=Kind.PBS, hosts=both, source=source, named=both, fabric=FABRIC)
    assert pbs == reached({"PBS_JOBID": "7", "PBS_NODEFILE": str(nodes)}, request())
    drun = Reach(kind=Kind.DRUN, hosts=both, source=f"DRAGON_RUN_NODEFILE {nodes}", named=both, fabric=FABRIC)
    assert drun == reached({**SLURM, "DRAGON_RUN_NODEFILE": str(nodes)}, request())


def test_a_saved_plan_is_for_all_hosts_of_the_batch_job() -> None:
    """It has no part that names some."""
    assert ALL == hosts(SLURM)


@pytest.mark.parametrize(
    ("specs", "used"),
    [
        ([request(hosts=("n3", "n1"))], ("n1", "n3")),
        ([request(exclude_hosts=("n2",))], ("n1", "n3", "n4")),
        ([request(hosts=("n1", "n2"), exclude_hosts=("n2",))], ("n1",)),
        ([request(hosts=("n4",)), request(hosts=("n2", "n3"), exclude_hosts=("n3",))], ("n2", "n4")),
        ([request(hosts=("n4",)), request()], ALL),
    ],
)
def test_hosts_are_chosen_among_those_of_the_batch_job(specs: list[LayoutSpec], used: tuple[str, ...]) -> None:
    """In the job's order, those that a part of the job may use; the planner gets along with what is left of them."""
    reach = reached(SLURM, *specs)
    assert reach is not None
    assert (used, ALL, used == ALL) == (reach.hosts, reach.named, reach.whole)
    planned = plan(of(*used), *without_left_out(specs, of(*used), reach))
    assert {*used} == {planned.allocation.nodes[node.node_index].host for node in planned.nodes}


def test_without_a_batch_job_the_hosts_that_are_named_are_reached_by_ssh() -> None:
    """Of all parts, each once."""
    named = ("n2", "n1", "n3")
    specs = [request(hosts=("n2", "n1")), request(hosts=("n1", "n3"))]
    expected = Reach(kind=Kind.SSH, hosts=named, source="--hosts", named=named, fabric=FABRIC)
    assert expected == reached({}, *specs)
    assert ("n2",) == hosts({}, request(hosts=("n2",)))
    excluding = [request(hosts=("n1", "n2"), exclude_hosts=("n2",))]
    reach = reached({}, *excluding)
    assert reach is not None
    assert (("n1",), ("n1", "n2")) == (reach.hosts, reach.named)
    assert 2 == plan(of("n1"), *without_left_out(excluding, of("n1"), reach)).n_ranks


@pytest.mark.parametrize(
    ("environ", "spec"),
    [
        ({}, request()),
        ({}, request(hosts=(OWN,))),
        ({}, request(hosts=("localhost",))),
        ({"SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": OWN}, request()),
        ({"SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": OWN}, request(hosts=("localhost",))),
    ],
)
def test_this_host_alone_needs_no_reaching(environ: dict[str, str], spec: LayoutSpec) -> None:
    """By any of its names."""
    assert None is reached(environ, spec)


@pytest.mark.parametrize(
    ("environ", "names"), [({}, (OWN, "n2")), ({"SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": f"{OWN},n2"}, ())]
)
def test_this_host_is_one_of_several_where_the_others_are_left_out(
    environ: dict[str, str], names: tuple[str, ...]
) -> None:
    """The planner gets along with their names then."""
    spec = request(hosts=names, exclude_hosts=("n2",))
    reach = reached(environ, spec)
    assert reach is not None
    assert ((OWN,), (OWN, "n2")) == (reach.hosts, reach.named)
    assert 2 == plan(of(OWN), *without_left_out([spec], of(OWN), reach)).n_ranks


@pytest.mark.parametrize(
    ("environ", "spec", "message"),
    [
        (
            {},
            request(hosts=("n1", "n2"), exclude_hosts=("n[1-2]",)),
            "--exclude-hosts n[1-2] leaves no host of n[1-2] (--hosts)",
        ),
        (SLURM, request(exclude_hosts=("n4", "n7")), "--exclude-hosts n7: the job has n[1-4] (SLURM_JOB_NODELIST)"),
        ({}, request(hosts=("n1", "n2"), exclude_hosts=("q",)), "--exclude-hosts q: the job has n[1-2] (--hosts)"),
        (SLURM, request(hosts=("n7",)), "--hosts n7: the job has n[1-4] (SLURM_JOB_NODELIST)"),
        (
            SLURM,
            request(hosts=("n1",), exclude_hosts=("n1",)),
            "--hosts n1 and --exclude-hosts n1 leave no host of n[1-4] (SLURM_JOB_NODELIST)",
        ),
    ],
)
def test_what_leaves_no_host_is_refused(environ: dict[str, str], spec: LayoutSpec, message: str) -> None:
    """With those that there are, and where they stand."""
    with pytest.raises(AllocationError) as caught:
        reached(environ, spec)
    assert message == caught.value.message


def test_a_file_of_hosts_is_named(nodes: Path) -> None:
    """In what is refused, and in a dry run."""
    reach = reached({}, request(hostfile=nodes))
    assert reach is not None
    assert (("x1", "x2"), f"--hostfile {nodes}") == (reach.hosts, reach.source)


def test_a_shell_that_has_outlived_its_job_is_said() -> None:
    """Else it were this host without a word."""
    said: list[str] = []
    environ = {"SLURM_JOB_NODELIST": "n[1-2]"}
    assert None is reach_of([], None, environ=environ, fabric=FABRIC, choice=HostChoice(), say=said.append)
    assert ["SLURM_JOB_NODELIST is set, but SLURM_JOB_ID is not"] == [text.partition(":")[0] for text in said]


def test_so_many_hosts_are_looked_at_as_are_asked_for() -> None:
    """The first, spares among them; Dragon's own way onto all of the batch job is none onto these."""
    for choice, used in (({"n_nodes": 2}, ALL[:2]), ({"n_nodes": 2, "n_spares": 1}, ALL[:3])):
        reach = reached(SLURM, request(), **choice)
        assert reach is not None
        assert (used, ALL, False) == (reach.hosts, reach.named, reach.whole)
    reach = reached(SLURM, request(), n_nodes=3, n_spares=1)
    assert reach is not None
    assert (ALL, True) == (reach.hosts, reach.whole)
    assert None is reached({}, request(), n_nodes=1)


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Reach:
    """Return the hosts of a runtime that is around this process, for all that anybody here knows."""
    reach = Reach(kind=Kind.DRAGON, hosts=ALL, source="the Dragon runtime around this process", named=ALL)
    monkeypatch.setattr(reaching, "runtime_around", lambda _timeout_s: reach)
    return reach


def test_the_hosts_of_the_runtime_around_are_those_of_the_launch(around: Reach) -> None:
    """Whatever batch job that is in; options choose among them, and more than there are, are refused."""

    def among(*specs: LayoutSpec, **choice: int) -> Reach | None:
        chosen = HostChoice(**choice)  # type: ignore[arg-type]
        return reach_of(specs, None, environ=INSIDE, fabric=Fabric(), choice=chosen, say=print)

    assert around == among(request()) == among()
    for reach in (among(request(hosts=["n1", "n2"])), among(request(), n_nodes=1, n_spares=1)):
        assert reach is not None
        assert (Kind.DRAGON, ALL[:2], ALL, False) == (reach.kind, reach.hosts, reach.named, reach.whole)
    with pytest.raises(AllocationError, match="--hosts n9: the job has n"):
        among(request(hosts=["n9"]))
    with pytest.raises(AllocationError) as caught:
        among(request(), n_nodes=5)
    assert "--nodes 5: there are 4: n[1-4] (the Dragon runtime around this process)" == caught.value.message


@pytest.mark.parametrize(
    ("fabric", "option"),
    [
        (Fabric(transport="tcp"), "--transport"),
        (Fabric(network_prefix="^hsn"), "--network-prefix"),
        (Fabric(words=("-r",)), "--dragon-arg"),
    ],
)
def test_options_for_starting_dragon_are_refused_where_it_is_running(fabric: Fabric, option: str) -> None:
    """They would change nothing, and their user would not know."""
    with pytest.raises(UsageError) as caught:
        reach_of([], None, environ=INSIDE, fabric=fabric, choice=HostChoice(), say=print)
    assert f"{option}: the Dragon runtime around this command has been started already" == caught.value.message
    assert option in caught.value.hint


@pytest.mark.parametrize("named", ["", "tcp", "hsta"])
def test_dragons_own_messages_go_by_what_the_user_names_or_by_what_is_usual(
    monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """Where a runtime is around nobody has named one, whatever is usual: it is not refused there (see above)."""
    monkeypatch.setattr(reaching, "usual_transport", lambda: "hsta")
    reach = reach_of([], None, environ=SLURM, fabric=Fabric(transport=named), choice=HostChoice(), say=print)
    assert reach is not None
    assert (named or "hsta") == reach.fabric.transport


@pytest.mark.parametrize(
    ("environ", "choice", "message"),
    [
        (SLURM, {"n_nodes": 5}, "--nodes 5: there are 4: n[1-4] (SLURM_JOB_NODELIST)"),
        (SLURM, {"n_nodes": 4, "n_spares": 1}, "--nodes 4 --spares 1: there are 4: n[1-4] (SLURM_JOB_NODELIST)"),
        ({}, {"n_nodes": 2}, f"--nodes 2: there is 1: {OWN} alone"),
        ({}, {"n_nodes": 1, "n_spares": 1}, f"--nodes 1 --spares 1: there is 1: {OWN} alone"),
    ],
)
def test_more_hosts_than_there_are_are_refused(environ: dict[str, str], choice: dict[str, int], message: str) -> None:
    """With those that there are, and where they stand."""
    with pytest.raises(AllocationError) as refused:
        reached(environ, request(), **choice)
    assert message == refused.value.message
    assert "--hosts" in refused.value.hint


def test_hosts_that_the_job_leaves_out_are_no_mistake() -> None:
    """Of a part that names them; one that nobody has is."""
    reach = reached(SLURM, request(), n_nodes=2, n_spares=1)
    specs = [request(hosts=("n1", "n2", "n4"), exclude_hosts=("n4",)), request(hosts=("n1", "n9"))]
    left = without_left_out(specs, of("n1", "n3"), reach)
    assert [("n1",), ("n1", "n9")] == [spec.hosts for spec in left]
    assert [(), ()] == [spec.exclude_hosts for spec in left]
    assert specs == without_left_out(specs, of("n1"), None)


def test_a_part_whose_hosts_are_all_left_out_is_refused(tmp_path: Path) -> None:
    """Without a name it would go onto the others' hosts."""
    reach = reached(SLURM, request(), n_nodes=2)
    specs = [request(hosts=("n1",)), request(hosts=("n3", "n4"))]
    with pytest.raises(AllocationError) as refused:
        without_left_out(specs, of("n1", "n2"), reach)
    assert "--hosts n[3-4]: the job uses none of them" == refused.value.message
    assert "--nodes" in refused.value.hint
    (tmp_path / "part").write_text("n3\n")
    in_file = request(hostfile=tmp_path / "part")
    with pytest.raises(AllocationError, match=f"--hostfile {tmp_path}/part: the job uses none of them"):
        without_left_out([in_file], of("n1", "n2"), reach)
