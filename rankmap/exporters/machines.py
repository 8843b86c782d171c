"""Machine presets as text: a list for people, all facts of one with their sources, JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Protocol

from rankmap.codec import encode
from rankmap.exporters import tables
from rankmap.exporters import topology as of_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rankmap.preset import Preset
    from rankmap.topology import Allocation, NodeTopology

__all__ = ["SCHEMA", "as_json", "details", "table"]

SCHEMA: Final = "rankmap.machines/1"


def table(presets: Iterable[tuple[Preset, NodeTopology]]) -> str:
    """Return one line for each preset, with a newline at the end."""
    rows = [
        {
            "name": preset.name,
            "cores": len(shape.cores),
            "CPUs": len(shape.present),
            "NUMA": sum(domain.local for domain in shape.numa_domains),
            "GPUs": len(shape.gpus) or "",
            "NICs": len(shape.nics) or "",
            "kept by the site": str(shape.reserved),
            "machine": preset.title,
        }
        for preset, shape in presets
    ]
    headers = list(rows[0]) if rows else []
    return tables.simple([list(row.values()) for row in rows], headers) + "\n"


def details(preset: Preset, allocation: Allocation) -> str:
    """Return what is known of one machine, what is not, and where each fact is from."""
    lines = [preset.title, "", of_nodes.table(allocation).rstrip()]
    if preset.site is not None and preset.site.scheduler:
        lines += ["", f"scheduler: {preset.site.scheduler}"]
    lines += [f"environment: {one.name}={one.value}" for one in preset.environment]
    if preset.dragon is not None:
        library = f" over {preset.dragon.library}" if preset.dragon.library else ""
        lines += [f"Dragon's transport: {preset.dragon.transport}{library}"]
        if preset.dragon.runtime_lib:
            lines += [f"the library of Dragon's transport: {preset.dragon.runtime_lib}"]
    lines += _batch_lines(preset)
    lines += ["", *(f"not published: {what}" for what in preset.unknown)] if preset.unknown else []
    lines += ["", "sources"]
    lines += [f"  {what}: {source} ({date})" for what, source, date in _sources(preset)]
    return "\n".join(lines) + "\n"


def _batch_lines(preset: Preset) -> list[str]:
    batch = preset.batch
    lines = []
    if batch is not None:
        lines += [f"batch jobs, each node: {batch.chunk}"] if batch.chunk else []
        lines += [f"batch jobs, a queue is: a {batch.queue}"] if batch.queue else []
        lines += ["batch jobs: must say their file systems"] if batch.needs_filesystems else []
    lines += [f"batch jobs, directive: {one.text}" for one in preset.directive]
    return [*lines, *(f"batch jobs, set-up: {one.line}" for one in preset.setup)]


class _Fact(Protocol):
    """What says where it is from."""

    @property
    def source(self) -> str:
        """Return the address of the page."""

    @property
    def date(self) -> str:
        """Return when it was read."""


def _sources(preset: Preset) -> Iterable[tuple[str, str, str]]:
    parts: tuple[tuple[str, _Fact | None], ...] = (
        ("topology", preset.structure),
        *((f"memory of domain {one.numa}", one) for one in preset.memory),
        ("GPUs", preset.gpus),
        ("NICs", preset.nics),
        ("site", preset.site),
        *((one.name, one) for one in preset.environment),
        ("Dragon", preset.dragon),
        ("batch jobs", preset.batch),
        *((one.text, one) for one in preset.directive),
        *((one.line, one) for one in preset.setup),
    )
    for what, part in parts:
        if part is not None:
            yield what, part.source, part.date


def as_json(presets: Sequence[Preset]) -> str:
    """Return the presets as one JSON object, indented, with a newline at the end.

    ``schema`` is "rankmap.machines/1"; ``machines`` has one entry for each, with the keys of its TOML file.
    """
    machines = [
        {
            "name": preset.name,
            "title": preset.title,
            "unknown": list(preset.unknown),
            "topology": encode(preset.structure),
            "memory": encode(preset.memory),
            "gpus": encode(preset.gpus),
            "nics": encode(preset.nics),
            "site": encode(preset.site),
            "environment": encode(preset.environment),
            "dragon": encode(preset.dragon),
            "batch": encode(preset.batch),
            "directive": encode(preset.directive),
            "setup": encode(preset.setup),
        }
        for preset in presets
    ]
    return json.dumps({"schema": SCHEMA, "machines": machines}, indent=1, ensure_ascii=False) + "\n"
