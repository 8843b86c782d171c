"""Fault injection for the end-to-end tests, loaded by Python at start-up when this folder is on PYTHONPATH.

RANKMAP_TEST_MISPLACE=1: the head asks Dragon for rank 0's CPUs for all (rankmap.runtime.dragon is changed as it is
imported). RANKMAP_TEST_DRAGON=die, hang: the command ``dragon`` does that, before it has done anything.
Shims do not load it (they run with -I -S), so what they see is what Dragon really did.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

TARGET = "rankmap.runtime.dragon"


class Misplace(importlib.abc.MetaPathFinder):
    """Finds the one module, and makes its policy() forget which rank it is for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the module with a loader that patches it."""
        del path, target
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        load: Any = spec.loader.exec_module
        first: list[Any] = []

        def exec_module(module: Any) -> None:  # noqa: ANN401
            load(module)
            policy = module.policy

            def misplaced(start: Any, nodes: Any) -> Any:  # noqa: ANN401
                first.append(start)
                return policy(first[0], nodes)

            module.policy = misplaced

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if os.environ.get("RANKMAP_TEST_MISPLACE") == "1":
    sys.meta_path.insert(0, Misplace())
if sys.orig_argv[1:] and sys.orig_argv[1].endswith("/dragon"):
    what = os.environ.get("RANKMAP_TEST_DRAGON")
    if what == "die":
        os.write(2, b"broken on purpose\n")
        os._exit(3)
    elif what == "hang":
        os.write(2, b"stuck on purpose\n")
        signal.pause()
