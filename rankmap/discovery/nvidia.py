"""NVIDIA's GPUs by NVML (PyPI nvidia-ml-py): UUIDs, memory, MIG instances, NVLinks.

Source: NVML API Reference Guide; names and signatures as in nvidia-ml-py 13 (tests/unit/test_nvidia.py checks them).
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from rankmap.discovery.gpu_cards import Card, Part, failure, numa_of, pci_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["DEVICE", "VENDOR", "cards"]

VENDOR: Final = "NVIDIA"
DEVICE: Final = "nvidiactl"
"""What is in /dev where the driver is loaded."""

_MIG_ENABLED: Final = 1  # NVML_DEVICE_MIG_ENABLE
_TO_GPU, _TO_SWITCH = 0, 2  # NVML_NVLINK_DEVICE_TYPE_GPU, _SWITCH


def cards(
    sys: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    load: Callable[[], Any] = lambda: import_module("pynvml"),
) -> tuple[Card, ...]:
    """Return the cards in NVML's order, which is that of their PCI addresses; without those that NVML has lost.

    Args:
        sys: Where sysfs is.
        say: Called with each GPU that it fails at.
        load: Returns the module pynvml.

    Raises:
        Exception: There is no such module, no driver, or it fails.
    """
    nvml = load()
    nvml.nvmlInit()
    try:
        handles: dict[str, Any] = {}
        parts: dict[str, tuple[Part, ...]] = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                address = pci_address(_text(nvml.nvmlDeviceGetPciInfo(handle).busId))
                parts[address], handles[address] = _parts(nvml, handle), handle
            except nvml.NVMLError as error:  # one that has fallen off the bus; the others go on
                say(failure(VENDOR, error, of=str(index)))
        # Instances of a divided GPU reach no other GPU (MIG User Guide, "Application Considerations").
        peers = _peers(nvml, {a: handle for a, handle in handles.items() if not any(part.token for part in parts[a])})
        return tuple(
            Card(pci_address=a, parts=of_card, numa=numa_of(a, sys), peers=peers.get(a, ()))
            for a, of_card in parts.items()
        )
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    """Return text, which older versions of the module give as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _parts(nvml: Any, handle: Any) -> tuple[Part, ...]:  # noqa: ANN401 - a module without types
    try:
        divided = nvml.nvmlDeviceGetMigMode(handle)[0] == _MIG_ENABLED
    except nvml.NVMLError:
        divided = False  # GPUs before A100 cannot be
    if not divided:
        return (_part(nvml, handle),)
    instances = [_part(nvml, instance) for instance in _instances(nvml, handle)]
    return tuple(Part(uuid=i.uuid, model=i.model, memory_bytes=i.memory_bytes, token=i.uuid) for i in instances)


def _instances(nvml: Any, handle: Any) -> Iterator[Any]:  # noqa: ANN401
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(nvml.NVMLError):  # not found: places that no instance is in
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)


def _part(nvml: Any, handle: Any) -> Part:  # noqa: ANN401
    model, memory_bytes = "", 0
    with suppress(nvml.NVMLError):
        model = _text(nvml.nvmlDeviceGetName(handle))
    with suppress(nvml.NVMLError):  # not supported where GPU and CPU share their memory (GB10)
        memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Part(uuid=_text(nvml.nvmlDeviceGetUUID(handle)), model=model, memory_bytes=memory_bytes)


def _peers(nvml: Any, handles: dict[str, Any]) -> dict[str, tuple[str, ...]]:  # noqa: ANN401
    """Return the GPUs that each has active NVLinks to; those that are linked to switches reach each other."""
    linked = {address: dict(_links(nvml, handle)) for address, handle in handles.items()}
    switched = [address for address, ends in linked.items() if _TO_SWITCH in ends.values()]
    return {
        address: _others(address, handles, {*ends, *(switched if address in switched else ())})
        for address, ends in linked.items()
    }


def _others(address: str, all_addresses: Iterable[str], reached: set[str]) -> tuple[str, ...]:
    return tuple(other for other in all_addresses if other != address and other in reached)


def _links(nvml: Any, handle: Any) -> Iterator[tuple[str, int]]:  # noqa: ANN401
    """Yield what is at the other end of each active NVLink: a PCI address, and which kind of device that is."""
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            if nvml.nvmlDeviceGetNvLinkState(handle, link):
                kind = nvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link)
                address = pci_address(_text(nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link).busId))
                yield address, kind
        except (nvml.NVMLError, ValueError):
            continue  # no such link, or one to what has no PCI address
