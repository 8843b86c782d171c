"""Runs first in every Python of a Dragon runtime that rankmap starts, and sees to it that Dragon's faults are mended.

Python imports a module of this name when it starts; it is found because the runtime's PYTHONPATH has this directory in
front (``runtime.mending.python_path``). That is the one thing that reaches all of Dragon's processes on all hosts:
every launcher of Dragon's hands PYTHONPATH on. Ranks get the user's own PYTHONPATH back, before their Python starts.

What it hides, a ``sitecustomize`` of the user's or of the site, is run after it.

Source: Python documentation, "site: Site-specific configuration hook"; importlib, MetaPathFinder.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

# Those of rankmap.runtime.mending, which is not imported where none of them is.
_MENDED = {
    "dragon.globalservices.group_int",
    "dragon.infrastructure.gpu_desc",
    "dragon.launcher.frontend",
    "dragon.localservices.local_svc",
    "dragon.native.queue",
    "dragon.transport.tcp.client",
}


class Mender:
    """Finds the modules of Dragon's that need mending, and has them mended when they are imported."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the module's spec with a loader that mends it, None for all other modules."""
        if name not in _MENDED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_mend(module: ModuleType) -> None:
                from rankmap.runtime.mending import mend  # noqa: PLC0415 - few processes need it

                execute(module)
                mend(module)

            setattr(spec.loader, "exec_module", execute_and_mend)  # noqa: B010 - of this one loader
        return spec


def run_hidden() -> None:
    """Run the ``sitecustomize`` that Python would have found without this one: the first that comes after it."""
    here = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - pathlib costs every process 10 ms
    places = [os.path.realpath(path) for path in sys.path]
    spec = PathFinder.find_spec("sitecustomize", sys.path[places.index(here) + 1 :] if here in places else [])
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.modules["rankmap-startup"] = sys.modules[__name__]  # its name may be another's in a moment
sys.meta_path.insert(0, Mender)
run_hidden()
