"""The variables by which programs find their rank on a node, whoever has started them.

A batch script's own (SLURM_LOCALID=0) are inherited by all ranks, and are wrong for all but one: so each rank gets its
own values, of all names that are in use.

| variable | set by | read by |
|---|---|---|
| MPI_LOCALRANKID, MPI_LOCALNRANKS | Hydra (MPICH, Intel MPI) | PSM2, PSM3, Kokkos, accelerate, wrapper scripts |
| OMPI_COMM_WORLD_LOCAL_RANK, OMPI_COMM_WORLD_LOCAL_SIZE | Open MPI's mpirun | Kokkos, PSM3, wrapper scripts |
| MV2_COMM_WORLD_LOCAL_RANK | MVAPICH2's mpirun_rsh | Kokkos, accelerate |
| SLURM_LOCALID | srun(1) | Kokkos, PyTorch Lightning, JAX, wrapper scripts |
| PALS_LOCAL_RANKID | PALS, mpiexec(1) | ALCF's gpu_tile_compact.sh and set_affinity_gpu_*.sh |
| FLUX_TASK_LOCAL_ID | flux-environment(7) | wrapper scripts, HPCToolkit |

None of these decides how an MPI library starts: Open MPI 5 takes PMIX_RANK and PMIX_NAMESPACE, MPICH and Intel MPI the
same or PMI_RANK and PMI_FD, Cray PMI PALS_RANKID and PALS_SPOOL_DIR (PALS_LOCAL_RANKID it leaves alone). Names that say
which job this is (OMPI_COMM_WORLD_SIZE, PMI_SIZE, PALS_RANKID, FLUX_JOB_ID, SLURM_NTASKS) are therefore not set.

Source: docs.open-mpi.org, "Environment variables set by mpirun"; srun(1), "OUTPUT ENVIRONMENT VARIABLES"; PALS,
mpiexec(1); flux-environment(7); libpsm2, psm.c; the strings of Open MPI 5.0.11's libmpi.so: of all names here it has
only SLURM_PROCID, which it looks for when there is no PMIx server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["RANK_NAMES", "left_by_others", "rank_variables"]

_LOCAL_RANK = (
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
    "PALS_LOCAL_RANKID",
    "FLUX_TASK_LOCAL_ID",
)
_LOCAL_SIZE = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")

RANK_NAMES = frozenset({"SLURM_PROCID"})
"""Ranks of a batch step: where one is inherited, every rank but one would take it for another's number."""

_OTHER_PMI = ("PMI_RANK", "PMI_SIZE", "PMI_FD", "PMI_PORT", "PMI_ID", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE")
"""PMI-1 and PMI-2 of the step that rankmap itself was started in (srun --mpi=pmi2, Hydra)."""


def rank_variables(*, rank: int, local_rank: int, n_local: int, inherited: Collection[str]) -> dict[str, str]:
    """Return the variables that tell a rank its place among the ranks of its node.

    Args:
        rank: Its MPI rank.
        local_rank: Its number on the node.
        n_local: How many ranks the node has.
        inherited: The names of RANK_NAMES that are in the environment, and stand for another's number.
    """
    return {
        **dict.fromkeys(_LOCAL_RANK, str(local_rank)),
        **dict.fromkeys(_LOCAL_SIZE, str(n_local)),
        **dict.fromkeys(sorted(inherited), str(rank)),
    }


def left_by_others(environ: Mapping[str, str], *, backend: str) -> dict[str, None]:
    """Return the variables of another launcher's PMI that PMIx ranks do without: they are no part of its job."""
    return {name: None for name in _OTHER_PMI if name in environ} if backend == "pmix" else {}
