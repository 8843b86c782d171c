"""What would bind the ranks a second time, after Dragon has bound them as planned: said, and where it can be, undone.

Two libraries bind by default, with no variable set: Intel MPI and MVAPICH. For these it is switched off whenever
rankmap binds the ranks. What the user gives by ``--env`` is never changed.

Sources and measurements:
* I_MPI_PIN (default: on) and I_MPI_PIN_*: Intel MPI Developer Reference for Linux, "Environment Variables for Process
  Pinning".
* MV2_ENABLE_AFFINITY (default: 1), MV2_CPU_*: MVAPICH2 user guide, section 6.5; MVP_* are those of MVAPICH 3 and later.
* MPICH_CPU_BIND: in scripts for Cray machines; no manual that we found explains it, so it is taken away in any case.
* MPIR_CVAR_PROGRESS_THREAD_AFFINITY: MPICH, src/mpi/init/init_async.c: CPUs of a node, not of the rank.
* KMP_AFFINITY and GOMP_CPU_AFFINITY: measured with libiomp5 2026.2: "OMP_PLACES: ignored because KMP_AFFINITY (or
  GOMP_CPU_AFFINITY) has been defined"; with libgomp 12 OMP_PLACES wins (libgomp manual, GOMP_CPU_AFFINITY).
  Else KMP_AFFINITY keeps to the CPUs of the process, unless it lists others or says norespect (LLVM OpenMP manual).
* OMPI_MCA_hwloc_base_binding_policy, PRTE_MCA_hwloc_default_binding_policy, SLURM_CPU_BIND: for mpirun and srun only;
  Open MPI 5's libraries do not have these names.
* Not here: PSM2 pins a process only where it may use all CPUs of the node (linux, drivers/infiniband/hw/hfi1/
  affinity.c, hfi1_get_proc_affinity), which bound ranks may not; Cray MPICH's intro_mpi(3) has no variable that binds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["SecondBinding", "second_binding"]


class SecondBinding(NamedTuple):
    """What changes in the ranks' environment (None: removed), what the user should know, and what is harmless."""

    changes: dict[str, str | None]
    messages: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Library:
    """An MPI library that binds: by which variables, and what makes it leave that be."""

    prefixes: tuple[str, ...]
    off: Mapping[str, str]


_MPI = {
    "Intel MPI": _Library(prefixes=("I_MPI_PIN",), off={"I_MPI_PIN": "off"}),
    "MVAPICH": _Library(
        prefixes=tuple(
            f"{version}_{name}"
            for version in ("MV2", "MVP")
            for name in ("ENABLE_AFFINITY", "CPU_BINDING", "CPU_MAPPING", "HYBRID_BINDING", "THREADS_BINDING")
        ),
        off={"MV2_ENABLE_AFFINITY": "0", "MVP_ENABLE_AFFINITY": "0"},
    ),
    "MPICH": _Library(prefixes=("MPIR_CVAR_PROGRESS_THREAD_AFFINITY", "MPICH_CPU_BIND"), off={}),
}
_ALSO = {"Cray MPICH": "MPICH"}
"""Libraries that have another one's variables."""

_OFF = frozenset({"0", "off", "no", "disable", "false"})


def _lists_cpus(value: str) -> bool:
    return "{" in value or value[:1].isdigit()


def _leaves_mask(value: str) -> bool:
    return "proclist" in value.lower() or "norespect" in value.lower()


_OPENMP: Mapping[str, Callable[[str], bool]] = {
    "KMP_AFFINITY": _leaves_mask,
    "GOMP_CPU_AFFINITY": bool,
    "KMP_HW_SUBSET": bool,
    "OMP_PLACES": _lists_cpus,
}
"""OpenMP's own, and for which values they may take threads where the rank is not bound to."""

_OVER_PLACES = ("KMP_AFFINITY", "GOMP_CPU_AFFINITY")
"""What wins over OMP_PLACES, which ``--threads`` sets."""

_LAUNCHERS = {
    "OMPI_MCA_hwloc_base_binding_policy": "mpirun",
    "PRTE_MCA_hwloc_default_binding_policy": "mpirun",
    "SLURM_CPU_BIND": "srun",
}


def second_binding(
    environ: Mapping[str, str], set_env: Mapping[str, str | None], *, library: str, bound: bool, threads: bool
) -> SecondBinding:
    """Return what is to be done about a second binding of the ranks; nothing where rankmap does not bind them.

    Args:
        environ: The caller's environment, which the ranks inherit.
        set_env: What the user gives the ranks (``--env``; None: ``--unset``).
        library: The MPI library in use; "" where none was recognised.
        bound: Whether the ranks are bound.
        threads: Whether ``--threads`` sets OMP_PLACES.
    """
    if not bound:
        return SecondBinding({}, ())
    seen = {**environ, **set_env}
    found = {name: value for name, value in seen.items() if value is not None}
    changes: dict[str, str | None] = {}
    messages = [
        *_of_mpi(found, set_env, library=library, changes=changes),
        *_of_openmp(found, set_env, threads=threads, changes=changes),
    ]
    remarks = [
        f"{name}={found[name]}: without effect here, it is {launcher} that reads it"
        for name, launcher in _LAUNCHERS.items()
        if name in found
    ]
    return SecondBinding(changes, tuple(messages), tuple(remarks))


def _of_mpi(
    found: Mapping[str, str], set_env: Mapping[str, str | None], *, library: str, changes: dict[str, str | None]
) -> Iterator[str]:
    own = _ALSO.get(library, library)
    for name, about in _MPI.items():
        if library and name != own:
            continue  # nobody reads them
        there = [one for one in sorted(found) if one.startswith(about.prefixes)]
        given = [one for one in there if one in set_env]
        if library and not given:
            changes.update(dict.fromkeys(there))
            changes.update(about.off)
        for one in there:
            if found[one].lower() in _OFF:
                continue
            whom = "its thread" if "THREAD" in one else "ranks"
            what = f"{one}={found[one]}: {library or name} would bind {whom} again"
            yield f"{what}; {_done(one in changes, given_by_user=one in set_env)}"


def _of_openmp(
    found: Mapping[str, str], set_env: Mapping[str, str | None], *, threads: bool, changes: dict[str, str | None]
) -> Iterator[str]:
    for name, escapes in _OPENMP.items():
        if name not in found:
            continue
        if threads and name in _OVER_PLACES:
            if name not in set_env:
                changes[name] = None
            what = "Intel's and LLVM's OpenMP would take it instead of the places that --threads sets"
        elif escapes(found[name]) and not (threads and name == "OMP_PLACES"):
            what = "threads may be bound to other CPUs than the rank's"
        else:
            continue
        yield f"{name}={found[name]}: {what}; {_done(name in changes, given_by_user=name in set_env)}"


def _done(changed: bool, *, given_by_user: bool) -> str:  # noqa: FBT001 - the sentence's subject
    if given_by_user:
        return "left, as --env gives it"
    return "removed or switched off for the ranks" if changed else "left as it is"
