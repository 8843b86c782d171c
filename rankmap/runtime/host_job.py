"""What one host has to do of a job: a value that the supervisor makes and the host's hands (hands.py) work by."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rankmap.cpuset import CpuSet
from rankmap.node_plan import NodePlan
from rankmap.runtime.application import Application
from rankmap.runtime.job import Verify
from rankmap.runtime.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rankmap.runtime.job import JobRequest
    from rankmap.topology import Gpu

__all__ = ["HostJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJob:
    """One host's share of a job.

    Args:
        name: The job's, in the environment of all that belongs to it.
        plan: Where its ranks go.
        applications: What the ranks of each part of the job become.
        head_pid: The head's pid where it is on this host, else 0.
        limits: What the ranks get.
        drop_paths: See JobRequest, as for the fields below.
    """

    name: str
    plan: NodePlan
    applications: tuple[Application, ...]
    head_pid: int
    limits: Limits
    drop_paths: tuple[str, ...]
    reserve: CpuSet
    gpu_variables: Mapping[str, str]
    all_gpus: Callable[[str], tuple[Gpu, ...]]
    verify: Verify = Verify.FAIL
    watch_s: float | None = None
    stdin_rank: int | None = None
    inherited_ranks: frozenset[str] = frozenset()
    defaults: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        request: JobRequest,
        *,
        name: str,
        plan: NodePlan,
        applications: Iterable[Application],
        head_pid: int,
        limits: Limits,
    ) -> HostJob:
        """Return a host's share of what is requested; the arguments are the fields of these names."""
        return cls(
            name=name,
            plan=plan,
            applications=tuple(applications),
            head_pid=head_pid,
            limits=limits,
            drop_paths=request.drop_paths,
            reserve=request.reserve,
            gpu_variables=request.gpu_variables,
            all_gpus=request.all_gpus,
            verify=request.verify,
            watch_s=request.watch_s,
            stdin_rank=request.stdin_rank,
            inherited_ranks=request.inherited_ranks,
            defaults=request.defaults,
        )

    def to_values(self) -> dict[str, Any]:
        """Return it as wire.py takes it; ``all_gpus`` is each host's own."""
        return {
            "name": self.name,
            "plan": self.plan.to_values(),
            "applications": [asdict(one) for one in self.applications],
            "head_pid": self.head_pid,
            "limits": asdict(self.limits),
            "drop_paths": list(self.drop_paths),
            "reserve": str(self.reserve),
            "gpu_variables": dict(self.gpu_variables),
            "verify": str(self.verify),
            "watch_s": self.watch_s,
            "stdin_rank": self.stdin_rank,
            "inherited_ranks": sorted(self.inherited_ranks),
            "defaults": dict(self.defaults),
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, all_gpus: Callable[[str], tuple[Gpu, ...]]) -> HostJob:
        """Return what ``to_values`` made these of, for the host that this is."""
        return cls(
            **{
                **values,
                "plan": NodePlan.from_values(values["plan"]),
                "applications": tuple(Application(**one) for one in values["applications"]),
                "limits": Limits(**values["limits"]),
                "drop_paths": tuple(values["drop_paths"]),
                "reserve": CpuSet.parse(values["reserve"]),
                "verify": Verify(values["verify"]),
                "inherited_ranks": frozenset(values["inherited_ranks"]),
                "all_gpus": all_gpus,
            }
        )
