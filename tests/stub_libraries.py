"""Tiny shared libraries and programs that look like MPI libraries to whoever only reads the files."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def compiler() -> str:
    """Return the C compiler; skip the test where there is none."""
    found = shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler (cc): stub libraries cannot be built")
    return found


def build(target: Path, source: str, *flags: str) -> Path:
    """Compile C source text to this file, and return it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler(), "-x", "c", "-", "-o", str(target), *flags]
    done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def library(target: Path, source: str, *, needs: Path | None = None) -> Path:
    """Build a shared library whose soname is its file name, linked to another one where that is given."""
    link = linked_to(needs) if needs is not None else ()
    return build(target, source, "-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{target.name}", *link)


def program(target: Path, *, needs: Path | None = None) -> Path:
    """Build a program that does nothing, linked to this library where one is given."""
    return build(target, "int main(void) { return 0; }", *(linked_to(needs) if needs is not None else ()))


def linked_to(needed: Path) -> tuple[str, ...]:
    """Return the flags that link to this library and find it where it lies, used or not."""
    folder = needed.parent
    return (
        "-Wl,--no-as-needed",
        f"-Wl,-rpath,{folder}",
        f"-Wl,-rpath-link,{folder}",
        f"-L{folder}",
        f"-l:{needed.name}",
    )


def mpi_text(*strings: str) -> str:
    """Return C source of a library that holds these strings, as a built MPI holds its configure line and names."""
    lines = [f'const char rankmap_stub_{i}[] = "{text}";' for i, text in enumerate(strings)]
    return "\n".join(["int MPI_Init(void *argc, void *argv) { return 0; }", *lines])


def libpmix(target: Path, version: str) -> Path:
    """Build a libpmix that says that it is of this version."""
    return library(target, f'const char *PMIx_Get_version(void) {{ return "{version}"; }}')
