"""Dragon's real Policy class, outside a runtime, in processes of their own: importing dragon changes much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PLAN = """
import json
from rankmap.cpuset import CpuSet
from rankmap.layout import LayoutSpec
from rankmap.planner import plan as make
from tests.topologies_made import allocation, made
node = made([[2], [2]], smt=2)
plan = make(allocation(node, node), LayoutSpec(n_ranks=6))
show = lambda p: [p.placement.name, p.host_name, list(p.cpu_affinity), list(p.gpu_affinity)]
"""


def python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run this code after the plan was made."""
    command = [sys.executable, *flags, "-c", PLAN + code]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_one_explicit_policy_per_rank() -> None:
    """Host by name and a CPU list that is never empty, in rank order; templates hold the same, neighbours merged."""
    pytest.importorskip("dragon", reason="dragonhpc is not installed")
    done = python("""
one = plan.process_template(5)
crowd = make(allocation(made([[1]])), LayoutSpec(n_ranks=3, oversubscribe=True))
templates = [[[n, sorted(t), show(t["policy"])] for n, t in p.process_templates()] for p in (plan, crowd)]
print(json.dumps({"all": [show(p) for p in plan.policies()], "one": [sorted(one), show(one["policy"])],
                  "templates": templates, "hosts": [r.host for r in plan.ranks],
                  "cpus": [list(r.cpus) for r in plan.ranks]}))
""")
    assert (done.stderr, done.returncode) == ("", 0)
    got = json.loads(done.stdout)
    expected = [["HOST_NAME", host, cpus, []] for host, cpus in zip(got["hosts"], got["cpus"], strict=True)]
    assert got["hosts"] == ["n0"] * 3 + ["n1"] * 3
    assert all(got["cpus"])
    assert expected == got["all"]
    assert got["one"] == [["policy"], expected[5]]
    each, together = got["templates"]
    assert [[1, ["policy"], policy] for policy in expected] == each
    assert [[3, ["policy"], ["HOST_NAME", "n0", [0], []]]] == together


def test_a_rank_that_does_not_exist_is_refused() -> None:
    """Before dragon is needed."""
    done = python("""
from rankmap.errors import UsageError
try: plan.process_template(6)
except UsageError as error: print(error.message)
""")
    assert done.stdout == "rank 6: the job has ranks 0 to 5\n"


def test_what_dragon_cannot_hold_is_refused() -> None:
    """A memory policy by all three, variables by ``policies`` only: templates have them."""
    done = python("""
from rankmap.errors import UsageError
from rankmap.requests import request
with_memory = make(allocation(node), request(n_ranks=2, mem_bind="local"))
threads = make(allocation(node), request(n_ranks=2, threads_per_rank=2))
for refused in (with_memory.policies, with_memory.process_templates, lambda: with_memory.process_template(0),
                threads.policies):
    try: refused()
    except UsageError as error: print(error.message, "|", error.hint)
""")
    lines = done.stdout.splitlines()
    memory = (
        "the plan has the memory policy local (--mem-bind), which Dragon cannot give a process | use `rankmap launch`,"
    )
    assert [True] * 3 == [line.startswith(memory) for line in lines[:3]]
    assert "the plan sets OMP_NUM_THREADS, OMP_PLACES, OMP_PROC_BIND for its ranks" in lines[3]
    assert "process_templates()" in lines[3]


def test_templates_have_the_variables_of_their_ranks() -> None:
    """Of threads, say; ranks with others are not merged."""
    pytest.importorskip("dragon", reason="dragonhpc is not installed")
    done = python("""
from rankmap.requests import request
threads = make(allocation(node), request(n_ranks=2, threads_per_rank=2))
print(json.dumps([[n, keywords["env"]["OMP_PLACES"]] for n, keywords in threads.process_templates()]))
""")
    assert [[1, "{0,1},{2,3}"], [1, "{4,5},{6,7}"]] == json.loads(done.stdout)


def test_without_dragon_the_error_says_how_to_get_it() -> None:
    """Planning works where Dragon is not installed; what needs it says so."""
    done = python("""
import sys
from rankmap.errors import RuntimeUnusableError
sys.modules["dragon"] = None
try: plan.policies()
except RuntimeUnusableError as error: print(error.hint)
""")
    assert done.stdout == "pip install dragonhpc\n"


def test_gpus_are_named_as_dragon_has_them() -> None:
    """A tile may be 0.1, a float: as text it would match nothing, and the rank would get all GPUs."""
    pytest.importorskip("dragon", reason="dragonhpc is not installed")
    done = python("""
from rankmap.errors import LaunchError
from rankmap.runtime.dragon import LiveNode, RankStart, check_starts, policy
node = LiveNode(name="n", cpus=(0,), gpus=(0.0, 0.1, 2), gpu_variable="ZE_AFFINITY_MASK", is_primary=True)
starts = [RankStart(node_name="n", cpus=(0,), gpus=gpus) for gpus in (("0.1", "2"), ("2", "7"), ())]
print(policy(starts[0], [node]).gpu_affinity, policy(starts[1]).gpu_affinity)
check_starts((starts[0], starts[2]), [node])
try: check_starts(starts, [node])
except LaunchError as error: print(error.message)
""")
    assert (done.stderr, done.stdout.splitlines()) == (
        "",
        ["[0.1, 2] [2, 7]", "rank 1 is planned with GPU 7 of n, where Dragon has ['0.0', '0.1', '2']"],
    )
