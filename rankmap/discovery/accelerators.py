"""What the vendors' libraries and drivers add to the GPUs that hwloc has found on the live node.

UUIDs, memory, MIG instances, partitions, tiles, NVLinks, and cards that hwloc does not see (a container without PCI
devices). Each library is optional: where it is missing or fails there are no facts, and planning goes on without; a
failure is said to those who ask.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from rankmap.discovery import amd, intel, nvidia
from rankmap.discovery.gpu_cards import failure, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rankmap.discovery.gpu_cards import Card
    from rankmap.topology import Gpu, NodeTopology

__all__ = ["SOURCES", "Source", "all_gpus", "with_accelerators"]

_SYS: Final = Path("/sys")
_DEV: Final = Path("/dev")


class Source(Protocol):
    """A module that knows one vendor's GPUs."""

    @property
    def VENDOR(self) -> str:  # noqa: N802 - a module's constant
        """The vendor, as Gpu has it."""

    @property
    def DEVICE(self) -> str:  # noqa: N802
        """What is in /dev where the vendor's driver is loaded."""

    def cards(self, sys: Path, *, say: Callable[[str], None]) -> tuple[Card, ...]:
        """Return the cards that programs can use; raises whatever the vendor's library does.

        Args:
            sys: Where sysfs is.
            say: Called with what the library fails at on the way.
        """


SOURCES: Final[tuple[Source, ...]] = (nvidia, amd, intel)


def with_accelerators(
    topology: NodeTopology,
    *,
    sys: Path = _SYS,
    dev: Path = _DEV,
    sources: Sequence[Source] = SOURCES,
    say: Callable[[str], None] = lambda _: None,
) -> NodeTopology:
    """Return the node with what the vendors say of its GPUs.

    A vendor is asked only where hwloc shows a GPU of it or its driver is loaded, so others cost nothing.

    Args:
        topology: The live node as hwloc has it.
        sys: Where sysfs is.
        dev: Where the device files are.
        sources: Whom to ask.
        say: Called with what fails.
    """
    gpus = topology.gpus
    domains = [domain.os_index for domain in topology.numa_domains]
    for source in sources:
        if any(gpu.vendor == source.VENDOR for gpu in gpus) or (dev / source.DEVICE).exists():
            gpus = merged(gpus, _asked(source, sys, say), vendor=source.VENDOR, domains=domains)
    return topology if gpus == topology.gpus else replace(topology, gpus=gpus)


def all_gpus(vendor: str, *, sys: Path = _SYS, sources: Sequence[Source] = SOURCES) -> tuple[Gpu, ...]:
    """Return this vendor's GPUs as its library has them at this moment, whatever is masked; none without the library.

    Args:
        vendor: Whose.
        sys: Where sysfs is.
        sources: Whom to ask.
    """
    return tuple(
        gpu
        for source in sources
        if vendor == source.VENDOR
        for gpu in merged((), _asked(source, sys, lambda _: None), vendor=vendor, domains=())
    )


def _asked(source: Source, sys: Path, say: Callable[[str], None]) -> tuple[Card, ...]:
    try:
        return source.cards(sys, say=say)
    except ModuleNotFoundError:
        return ()
    except Exception as error:  # noqa: BLE001 - a vendor's library raises whatever it likes; this is the boundary to it
        say(failure(source.VENDOR, error))
        return ()
