"""Which of the hosts that were looked at a job uses: equal ones, so many, without those that are odd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankmap.errors import AllocationError, UsageError
from rankmap.gpu_makers import of_one_maker
from rankmap.odd_nodes import drop_odd, odd_nodes, require_equal
from rankmap.topology import Allocation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rankmap.placement import Plan
    from rankmap.runtime.host_facts import HostFacts

__all__ = ["HostChoice", "chosen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChoice:
    """What is asked of the hosts.

    Args:
        n_nodes: How many are used; None is all.
        n_spares: How many more are looked at, in case some are of no use or odd.
        equal: Whether the job is refused where one is odd.
        drop_odd: Whether odd ones are left out.

    Raises:
        UsageError: These do not go together.
    """

    n_nodes: int | None = None
    n_spares: int = 0
    equal: bool = False
    drop_odd: bool = False

    def __post_init__(self) -> None:
        if self.n_nodes is not None and self.n_nodes < 1:
            msg = f"--nodes {self.n_nodes}: a job has one node or more"
            raise UsageError(msg, hint="write --nodes 64")
        if self.n_spares < 0 or (self.n_spares and self.n_nodes is None):
            msg = f"--spares {self.n_spares}" + (": not a number of nodes" if self.n_spares < 0 else " without --nodes")
            raise UsageError(msg, hint="write --nodes 64 --spares 2: 64 nodes of 66")
        if self.equal and self.drop_odd:
            msg = "--require-equal and --drop-odd: odd nodes are either refused or left out"
            raise UsageError(msg, hint="leave one of them out")

    @property
    def n_looked_at(self) -> int | None:
        """How many hosts are looked at; None is all."""
        return None if self.n_nodes is None else self.n_nodes + self.n_spares


def chosen(
    facts: Sequence[HostFacts],
    choice: HostChoice,
    plan_for: Callable[[Allocation], Plan],
    say: Callable[[str], None],
) -> Sequence[HostFacts]:
    """Return the hosts that the job uses; what does not fit them is refused before Dragon starts on them.

    Args:
        facts: The hosts that can be used, in the job's order.
        choice: What is asked of them.
        plan_for: Makes the plan.
        say: Called with what is odd.

    Raises:
        RankmapError: There are too few such hosts, odd ones among them, or no plan fits them.
    """
    allocation = Allocation.of(tuple((one.name, of_one_maker(one.topology)) for one in facts))
    if choice.equal:
        require_equal(allocation)
    for odd in odd_nodes(allocation):
        say(odd.remark)
    if choice.drop_odd or choice.n_spares:
        allocation = drop_odd(allocation, choice.n_nodes)
    elif choice.n_nodes is not None:
        if len(allocation.nodes) < choice.n_nodes:
            msg = f"--nodes {choice.n_nodes}: there are {len(allocation.nodes)}"
            raise AllocationError(msg, hint="ask for fewer, or for a larger allocation")
        allocation = allocation.only(range(choice.n_nodes))
    plan_for(allocation)
    names = {node.host for node in allocation.nodes}
    return [one for one in facts if one.name in names]
