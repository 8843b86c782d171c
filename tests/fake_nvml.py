"""A stand-in for the module pynvml: the functions that rankmap calls, over a few made GPUs.

tests/unit/test_nvidia.py checks its names and parameters against the real module where that is installed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

NVML_NVLINK_MAX_LINKS = 18
TO_GPU, TO_SWITCH = 0, 2


class NVMLError(Exception):
    """What the real module raises for every status but success."""


@dataclass(frozen=True, kw_only=True)
class FakeGpu:
    """One GPU or MIG instance. ``mig`` None: it cannot be divided; a None in it: a place without an instance."""

    bus_id: str = ""
    lost: bool = False
    uuid: str = ""
    name: str = "NVIDIA H100"
    memory: int | None = 80 << 30
    mig: tuple[FakeGpu | None, ...] | None = None
    links: dict[int, tuple[int, str]] = field(default_factory=dict)


class FakeNvml:
    """The module with these GPUs."""

    NVMLError = NVMLError
    NVML_NVLINK_MAX_LINKS = NVML_NVLINK_MAX_LINKS

    def __init__(self, *gpus: FakeGpu, works: bool = True) -> None:
        self.gpus = gpus
        self.works = works
        self.n_open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        """Open, or fail as without a driver."""
        if not self.works:
            raise NVMLError(9)  # driver not loaded
        self.n_open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Close."""
        self.n_open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return how many there are."""
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        """Return the GPU itself, or fail as for one that has fallen off the bus."""
        if self.gpus[index].lost:
            raise NVMLError(15)  # GPU is lost
        return self.gpus[index]

    def nvmlDeviceGetPciInfo(self, handle: FakeGpu) -> SimpleNamespace:  # noqa: N802
        """Return the address as bytes, as ctypes does."""
        return SimpleNamespace(busId=handle.bus_id.encode())

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:  # noqa: N802
        """Return it."""
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:  # noqa: N802
        """Return the model."""
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu, version: int | None = None) -> SimpleNamespace:  # noqa: N802
        """Return the size, or fail as where memory is shared."""
        del version
        if handle.memory is None:
            raise NVMLError(3)  # not supported
        return SimpleNamespace(total=handle.memory)

    def nvmlDeviceGetMigMode(self, device: FakeGpu) -> list[int]:  # noqa: N802
        """Return the current and the pending mode."""
        if device.mig is None:
            raise NVMLError(3)
        return [int(bool(device.mig)), int(bool(device.mig))]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: FakeGpu) -> int:  # noqa: N802
        """Return how many places for instances there are."""
        return len(device.mig or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: FakeGpu, index: int) -> FakeGpu:  # noqa: N802
        """Return the instance itself, or fail as where there is none."""
        instance = (device.mig or ())[index]
        if instance is None:
            raise NVMLError(6)  # not found
        return instance

    def nvmlDeviceGetNvLinkState(self, device: FakeGpu, link: int) -> int:  # noqa: N802
        """Return whether the link is active."""
        if not device.links:
            raise NVMLError(3)
        return int(link in device.links)

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, handle: FakeGpu, link: int) -> int:  # noqa: N802
        """Return what is at its end."""
        return handle.links[link][0]

    def nvmlDeviceGetNvLinkRemotePciInfo(self, device: FakeGpu, link: int) -> SimpleNamespace:  # noqa: N802
        """Return the address of that."""
        return SimpleNamespace(busId=device.links[link][1])
