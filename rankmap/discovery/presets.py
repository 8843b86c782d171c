"""Machine presets: what is published about the nodes of a machine, as one TOML file each, read and checked.

The files of rankmap/machines/ come with rankmap; a path names any other. A fact that nobody has published is not in
the file, and ``unknown`` says which those are. docs/machines.md explains every key.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from typing import Any, TypeVar

from rankmap.codec import decode, encode
from rankmap.discovery.preset_files import file_of
from rankmap.errors import AllocationError, UsageError
from rankmap.preset import (
    Batch,
    Directive,
    Dragon,
    Environment,
    Gpus,
    Lines,
    Memory,
    Nics,
    Preset,
    SetUp,
    Site,
    Structure,
)

__all__ = ["read"]

_T = TypeVar("_T")


def read(name: str) -> Preset:
    """Return the preset of this name, or of this file.

    Raises:
        AllocationError: It cannot be read, or is not complete; the message has file and line.
    """
    file = file_of(name)
    try:
        text = file.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        msg = f"the machine preset {file} cannot be read: {reason}"
        raise AllocationError(msg, hint="docs/machines.md has what a preset looks like") from error
    return _File(Lines(file=file, lines=tuple(text.splitlines())), data).preset()


class _File:
    """What one file says, checked."""

    def __init__(self, text: Lines, data: dict[str, Any]) -> None:
        self.text = text
        self.data = data

    def preset(self) -> Preset:
        known = {"title", "unknown", "topology", "memory", "gpus", "nics", "site", "environment", "dragon"}
        known |= {"batch", "directive", "setup"}
        for key in self.data.keys() - known:
            msg = f"{self.text.place(key)}: there is no key {key!r}; the keys are {', '.join(sorted(known))}"
            raise self._refused(msg)
        structure = self._table("topology", Structure)
        if structure is None:
            msg = f"{self.text.place('topology')}: there is no [topology]"
            raise self._refused(msg)
        preset = Preset(
            name=self.text.file.stem,
            text=self.text,
            title=self._text("title"),
            unknown=self._texts("unknown"),
            structure=structure,
            memory=self._tables("memory", Memory),
            gpus=self._table("gpus", Gpus),
            nics=self._table("nics", Nics),
            site=self._table("site", Site),
            environment=self._tables("environment", Environment),
            dragon=self._table("dragon", Dragon),
            batch=self._table("batch", Batch),
            directive=self._tables("directive", Directive),
            setup=self._tables("setup", SetUp),
        )
        self._check(preset)
        return preset

    def _check(self, preset: Preset) -> None:
        """Raise where two facts of the file contradict each other."""
        self._check_nics(preset.nics)
        self._check_batch(preset)
        gpus, dragon = preset.gpus, preset.dragon
        for number, variable in enumerate(preset.environment):
            if not re.fullmatch(r"[A-Za-z_]\w*", variable.name, re.ASCII):
                msg = f"{self.text.place('environment', 'name', number)}: {variable.name!r} is no name of a variable"
                raise self._refused(msg)
        if dragon is not None and (dragon.transport not in {"hsta", "tcp"} or dragon.library not in {"", "ofi", "ucx"}):
            msg = f"{self.text.place('dragon')}: there is no transport {dragon.transport!r} over {dragon.library!r}"
            raise self._refused(msg, "transport is hsta or tcp, library ofi or ucx")
        if gpus is not None and gpus.vendor not in {"NVIDIA", "AMD", "Intel"}:
            msg = f"{self.text.place('gpus', 'vendor')}: {gpus.vendor!r} is no vendor that rankmap knows"
            raise self._refused(msg, "write NVIDIA, AMD or Intel")
        if gpus is not None and (gpus.parts < 1 or not gpus.near or gpus.memory_gib < 0):
            msg = f"{self.text.place('gpus')}: {len(gpus.near)} GPUs of {gpus.parts} parts and {gpus.memory_gib} GiB"
            raise self._refused(msg, 'near has one CPU list for each card, "" where it is not known')

    def _check_nics(self, nics: Nics | None) -> None:
        if nics is None:
            return
        if len(set(nics.names)) < len(nics.names):
            msg = f"{self.text.place('nics', 'names')}: a name is there twice"
            raise self._refused(msg)
        for word, values in (("devices", nics.devices), ("near", nics.near)):
            if values and len(values) != len(nics.names):
                msg = f"{self.text.place('nics', word)}: {len(values)} {word} for {len(nics.names)} names"
                raise self._refused(msg)

    def _check_batch(self, preset: Preset) -> None:
        batch = preset.batch
        if batch is not None and batch.queue not in {"", "partition", "qos"}:
            msg = f"{self.text.place('batch', 'queue')}: Slurm has no {batch.queue!r} that is asked for like a queue"
            raise self._refused(msg, "queue is partition or qos")
        if batch is not None and not re.fullmatch(r"(\w+=[\w.-]+(:\w+=[\w.-]+)*)?", batch.chunk, re.ASCII):
            msg = f"{self.text.place('batch', 'chunk')}: {batch.chunk!r} is not what a chunk asks for"
            raise self._refused(msg, "write NAME=VALUE, several with `:` between them")
        for option in batch.options if batch is not None else ():
            if not re.fullmatch(r"--[a-z][a-z0-9-]*", option, re.ASCII):
                msg = f"{self.text.place('batch', 'options')}: {option!r} is no long option"
                raise self._refused(msg, "write it as before its value: --image")
        for number, directive in enumerate(preset.directive):
            if not directive.text.startswith("-") or not directive.text.isprintable():
                msg = f"{self.text.place('directive', 'text', number)}: {directive.text!r} is no option"
                raise self._refused(msg, "write it as after #PBS or #SBATCH: --constraint=gpu")
        for number, setup in enumerate(preset.setup):
            if not setup.line.isprintable():
                msg = f"{self.text.place('setup', 'line', number)}: {setup.line!r} is not one line"
                raise self._refused(msg, "write a [[setup]] for each line")

    def _text(self, key: str) -> str:
        value = self.data.get(key)
        if not isinstance(value, str) or not value:
            msg = f"{self.text.place(key)}: {key} is {'missing' if value is None else 'no text'}"
            raise self._refused(msg)
        return value

    def _texts(self, key: str) -> tuple[str, ...]:
        value = self.data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            msg = f"{self.text.place(key)}: {key} is no list of texts"
            raise self._refused(msg)
        return tuple(value)

    def _table(self, key: str, kind: type[_T]) -> _T | None:
        return self._decoded(key, kind, self.data[key], 0) if key in self.data else None

    def _tables(self, key: str, kind: type[_T]) -> tuple[_T, ...]:
        value = self.data.get(key, [])
        if not isinstance(value, list):
            msg = f"{self.text.place(key)}: write [[{key}]], there can be several"
            raise self._refused(msg)
        return tuple(self._decoded(key, kind, one, i) for i, one in enumerate(value))

    def _decoded(self, key: str, kind: type[_T], value: object, number: int) -> _T:
        if isinstance(value, dict):
            optional = {
                field.name: encode(field.default)
                for field in dataclasses.fields(kind)  # type: ignore[arg-type]  # each kind is a dataclass
                if field.default is not dataclasses.MISSING
            }
            value = optional | value
        where = f"[{key}]"
        if isinstance(value, dict) and not str(value.get("source", "https://")).startswith("https://"):
            msg = f"{self.text.place(key, 'source', number)}: {value['source']!r} is no page on the web"
            raise self._refused(msg, "every fact has the address of the page that says it")
        try:
            return decode(kind, value, where=where)  # type: ignore[arg-type]  # decode itself refuses what is no JSON
        except UsageError as error:
            found = re.search(rf"{re.escape(where)}\.?(\w*)", error.message)
            msg = f"{self.text.place(key, found[1] if found else '', number)}: {error.message}"
            raise self._refused(msg) from error

    def _refused(self, message: str, hint: str = "docs/machines.md explains every key of a preset") -> AllocationError:
        return AllocationError(message, hint=hint)
