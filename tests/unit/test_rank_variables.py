from __future__ import annotations

from typing import TYPE_CHECKING

from rankmap.cpuset import CpuSet
from rankmap.placement import RankPlacement
from rankmap.runtime.application import Application
from rankmap.runtime.limits import Limits
from rankmap.runtime.rank_process import go
from rankmap.runtime.rank_variables import RANK_NAMES, left_by_others, rank_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMITS = Limits(slack_ns=0, n_files=1024)


def test_every_rank_has_its_own_place_on_the_node() -> None:
    """By every name; a rank number only where one is inherited."""
    own = rank_variables(rank=5, local_rank=1, n_local=4, inherited=())
    assert {"1", "4"} == set(own.values())
    assert ("1", "1", "4") == (own["SLURM_LOCALID"], own["MPI_LOCALRANKID"], own["OMPI_COMM_WORLD_LOCAL_SIZE"])
    assert "5" == rank_variables(rank=5, local_rank=1, n_local=4, inherited=RANK_NAMES)["SLURM_PROCID"]


def test_ranks_of_pmix_have_nothing_of_another_pmi() -> None:
    """Cray PMI's ranks keep theirs."""
    environ = {"PMI_RANK": "0", "PMI_FD": "7", "PATH": "/bin"}
    assert {"PMI_RANK": None, "PMI_FD": None} == left_by_others(environ, backend="pmix")
    assert {} == left_by_others(environ, backend="cray")


def _set(
    env: tuple[tuple[str, str], ...] = (), gpus: tuple[str, ...] = (), **user: str | None
) -> Mapping[str, str | None]:
    placement = RankPlacement(
        rank=5, node_index=0, host="n0", local_rank=1, cpus=CpuSet.parse("0"), numa=(), gpus=gpus, env=env
    )
    application = Application(path="/bin/true", argv=("true",), cwd="/", set_env=user)
    message = go(
        application,
        placement,
        variables={"SLURM_LOCALID": "1"},
        gpu_variables={},
        drop_paths=(),
        limits=LIMITS,
    )
    changes: Mapping[str, str | None] = message["env"]["set"]
    return changes


def test_what_the_user_sets_wins_over_the_plan_and_that_over_the_rest() -> None:
    """In this order."""
    assert ("1", "1") == (_set()["SLURM_LOCALID"], _set()["RANKMAP_LOCAL_RANK"])
    assert "9" == _set(SLURM_LOCALID="9")["SLURM_LOCALID"]
    assert "2" == _set((("SLURM_LOCALID", "2"),))["SLURM_LOCALID"]


def test_a_rank_with_gpus_of_its_own_inherits_no_other_gpu_variable() -> None:
    """One of another API would show it other GPUs."""
    own = _set((("ROCR_VISIBLE_DEVICES", "3"), ("HIP_VISIBLE_DEVICES", "0")), ("3",))
    assert ("3", "0", None) == tuple(
        own[name] for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    )
