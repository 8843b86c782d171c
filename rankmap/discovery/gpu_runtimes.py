"""How many GPUs the vendors' run-time libraries show, where neither hwloc nor a driver's library sees any.

Dragon counts GPUs by these libraries, and so does every program that uses them; in some containers and virtual
machines nothing else knows. They are asked in a process of its own, because in this one they would stay set up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["counted"]

_LIBRARIES: Final = (
    ("NVIDIA", "libcudart.so", "cudaGetDeviceCount", "libcuda.so.1"),
    ("AMD", "libamdhip64.so", "hipGetDeviceCount", "libhsa-runtime64.so.1"),
)
"""In the order in which Dragon asks, the first that shows any decides; and what each needs where there are GPUs."""
_CACHE: Final = Path("/etc/ld.so.cache")
_TIMEOUT_S: Final = 20.0
_ASK: Final = """
import ctypes, sys
count = ctypes.c_int()
failed = getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])(ctypes.byref(count))
print(0 if failed else count.value)
"""


def counted(environ: Mapping[str, str], *, cache: Path = _CACHE) -> tuple[str, int]:
    """Return whose GPUs this environment shows, and how many; "" and 0 where no library shows any.

    Args:
        environ: Where LD_LIBRARY_PATH and the masks are.
        cache: The dynamic linker's cache, ld.so(8).
    """
    for vendor, library, function, driver in _LIBRARIES:
        if _is_there(library, driver, environ, cache):
            n_gpus = _ask(library, function, environ)
            if n_gpus > 0:
                return vendor, n_gpus
    return "", 0


def _is_there(library: str, driver: str, environ: Mapping[str, str], cache: Path) -> bool:
    """Return whether asking is worth a process: not where a toolkit is installed on a machine without GPUs."""
    folders = [folder for folder in environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    if any(os.access(Path(folder) / library, os.R_OK) for folder in folders):
        return True
    try:
        names = cache.read_bytes()
    except OSError:
        return False
    return all(f"{name}\0".encode() in names for name in (library, driver))


def _ask(library: str, function: str, environ: Mapping[str, str]) -> int:
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _ASK, library, function],
            env=dict(environ),
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return int(answer) if answer.isdigit() else 0
