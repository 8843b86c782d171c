from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rankmap
from rankmap.cpuset import CpuSet
from rankmap.errors import AllocationError, RuntimeUnusableError, UsageError
from rankmap.layout import LayoutSpec
from rankmap.requests import request
from tests.topologies_made import allocation, made

NODE = made([[2], [2]])
CHECKOUT = Path(__file__).parents[2]


def python(code: str) -> str:
    """Return what a new interpreter prints that runs this code."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False, env={"PATH": "/bin"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_importing_rankmap_is_cheap() -> None:
    """Neither dragon nor mpi4py nor click nor tabulate comes with it, not even when every name is used."""
    foreign = "{'dragon', 'mpi4py', 'click', 'tabulate'} & {name.partition('.')[0] for name in sys.modules}"
    assert python(f"import sys, rankmap; print({foreign})") == "set()\n"
    names = "for name in rankmap.__all__: getattr(rankmap, name)\n"
    assert python(f"import sys, rankmap\n{names}print({foreign})") == "set()\n"


def test_every_public_name_is_there() -> None:
    """``from rankmap import *`` works, and dir lists nothing that is not."""
    assert [name for name in rankmap.__all__ if getattr(rankmap, name, None) is None] == []
    assert sorted(rankmap.__all__) == list(rankmap.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        rankmap.nonsense  # noqa: B018 - the access is the test


def test_keywords_are_the_fields_of_a_layout() -> None:
    """Whatever the command line can ask, a program can; slots are part of hosts, what a site keeps is of reserve."""
    parameters = dict(inspect.signature(rankmap.plan).parameters)
    assert "allocation" == parameters.pop("allocation").name
    assert "then" == parameters.pop("then").name
    assert set(LayoutSpec.__dataclass_fields__) == {*parameters, "slots", "use_reserved"}
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert list(parameters) == list(inspect.signature(request).parameters)


@pytest.mark.parametrize("reserve", ["0", CpuSet(1)])
def test_plan_takes_the_words_of_the_command_line(reserve: str | CpuSet) -> None:
    """CPUs as text or as a set; hosts as any iterable."""
    made_plan = rankmap.plan(
        allocation(NODE, NODE), n_ranks=2, cpus_per_rank=1, reserve=reserve, hosts=iter(["n1"]), exclude_hosts=["n0"]
    )
    assert [(rank.host, str(rank.cpus)) for rank in made_plan.ranks] == [("n1", "1"), ("n1", "2")]


def test_machines_are_loaded_as_on_the_command_line() -> None:
    """A count in front, several machines in a row."""
    nodes = rankmap.load("2xsynthetic:core:2 pu:1", "synthetic:core:4 pu:1")
    assert [node.host for node in nodes.nodes] == ["n0", "n1", "n2"]
    assert len(nodes.shapes) == 2


def test_discover_outside_a_runtime_is_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node, with a CPU that this process may use."""
    monkeypatch.delenv("DRAGON_MY_PUID", raising=False)
    found = rankmap.discover()
    assert len(found.nodes) == 1
    assert found.topology(0).usable


def test_launch_outside_a_runtime_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not start one: the program around it would not be in it."""
    monkeypatch.delenv("DRAGON_MY_PUID", raising=False)
    with pytest.raises(RuntimeUnusableError, match="needs a Dragon runtime") as caught:
        rankmap.launch(rankmap.plan(allocation(NODE)), ["true"])
    assert "dragon -s" in caught.value.hint


def test_a_request_that_cannot_be_understood_is_a_usage_error() -> None:
    """The same error as on the command line."""
    with pytest.raises(UsageError):
        rankmap.plan(allocation(NODE), n_ranks=0)
    with pytest.raises(UsageError):
        rankmap.plan(allocation(NODE), reserve="x")


def test_a_job_has_parts_that_follow() -> None:
    """The keywords of every later part are those of the first."""
    made_plan = rankmap.plan(allocation(NODE), n_ranks=1, cpus_per_rank=1, then=[{"n_ranks": 2, "cpus_per_rank": 1}])
    assert [(part.n_ranks, str(part.spec)) for part in made_plan.parts] == [(1, "-n 1 -c 1"), (2, "-n 2 -c 1")]
    assert len({str(rank.cpus) for rank in made_plan.ranks}) == 3


def test_every_part_has_its_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job with more or fewer applications than parts is refused before anything starts."""
    monkeypatch.delenv("DRAGON_MY_PUID", raising=False)
    made_plan = rankmap.plan(allocation(NODE), n_ranks=1, cpus_per_rank=1, then=[{"n_ranks": 1}])
    with pytest.raises(UsageError, match="the plan is for a job of 2 parts, and there are 1 applications"):
        rankmap.launch(made_plan, ["true"])
    with pytest.raises(RuntimeUnusableError, match="needs a Dragon runtime"):
        rankmap.launch(made_plan, ["true"], ["true"])


def test_what_the_command_line_says_a_program_can_have() -> None:
    """The sentences of why, the layouts of whatif, scores, comparisons, plans on other nodes."""
    nodes = allocation(NODE, NODE)
    one, other = rankmap.plan(nodes, n_ranks=2), rankmap.plan(nodes, n_ranks=2, map_by="core")
    assert "asked: -n 2" == rankmap.why(one, 1)[0]
    assert "-n 2" == str(rankmap.whatif(nodes, n_ranks=2)[0].spec)
    assert 0 == rankmap.score(one).unbound
    assert rankmap.compare(one, other).places
    assert one == rankmap.replay(one, nodes)


def test_localhost_is_the_only_node() -> None:
    """And of several it is none."""
    made_plan = rankmap.plan(allocation(NODE), n_ranks=1, hosts=["localhost:2"])
    assert "n0" == made_plan.rank(0).host
    assert 0 == rankmap.score(made_plan).idle_nodes
    anywhere = rankmap.whatif(allocation(NODE), n_ranks=1)
    assert len(anywhere) == len(rankmap.whatif(allocation(NODE), n_ranks=1, hosts=["localhost"]))
    with pytest.raises(AllocationError, match="--hosts localhost: not in the allocation, which has n"):
        rankmap.plan(allocation(NODE, NODE), n_ranks=1, hosts=["localhost"])
