"""Unit tests of rankmap.runtime.memory_policies."""

from __future__ import annotations

import errno
import os

import pytest

from rankmap.errors import RuntimeUnusableError
from rankmap.planner import plan
from rankmap.requests import request
from rankmap.runtime.memory_policies import policy_text, refusal_hint, require_mempolicy
from tests.topologies_made import allocation, made

NODE = made([[2], [2]])


def test_a_machine_whose_system_calls_are_not_known_is_refused_by_name() -> None:
    """Before the runtime starts, and only where a policy was asked for."""
    with_policy = plan(allocation(NODE), request(n_ranks=2, mem_bind="bind:0"))
    with pytest.raises(
        RuntimeUnusableError, match=r"bind:0 cannot be set on s390x: .* of aarch64, ppc64le, "
    ) as caught:
        require_mempolicy(with_policy, machine="s390x")
    assert "numactl" in caught.value.hint
    require_mempolicy(with_policy, machine=os.uname().machine)
    require_mempolicy(plan(allocation(NODE), request(n_ranks=2)), machine="s390x")


@pytest.mark.parametrize(
    ("policy", "number", "words"),
    [
        ("preferred:0-1", errno.EINVAL, "before Linux 5.15 only one domain can be preferred: name one, or bind:0-1; "),
        ("preferred:1", errno.EINVAL, "cpuset.mems"),
        ("bind:0-1", errno.EINVAL, "cpuset.mems"),
        ("bind:0", errno.EPERM, "--cap-add SYS_NICE"),
        ("local", errno.ENOSYS, "without NUMA"),
    ],
)
def test_what_the_kernel_refuses_has_a_way_out(policy: str, number: int, words: str) -> None:
    """By its errno; of an invalid argument there are two causes."""
    assert words in refusal_hint(policy, number)


def test_nothing_is_made_up_for_an_unknown_errno() -> None:
    """The kernel's own words stand alone."""
    assert refusal_hint("bind:0", errno.ENOMEM) == ""


def test_what_a_shim_has_read_back_is_in_a_plans_words() -> None:
    """So that the two can be compared."""
    found = [None, ["local", []], ["bind", [0, 1, 3]], ["preferred", [2]]]
    assert [policy_text(one) for one in found] == ["", "local", "bind:0-1,3", "preferred:2"]
