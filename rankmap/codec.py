"""A frozen dataclass as plain JSON values and back, checked against its own type hints.

What comes out of ``decode`` is exactly what went into ``encode``; anything else (an unknown or missing key, a
number where text belongs) is refused with the path to it. CPU sets travel as Linux lists.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from enum import StrEnum
from typing import Any, TypeVar

from rankmap.cpuset import CpuSet
from rankmap.errors import UsageError

__all__ = ["Json", "decode", "encode", "mapping"]

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
"""What json.loads returns."""

_T = TypeVar("_T")
_SCALARS = {int: "a whole number", str: "text", bool: "true or false", types.NoneType: "null"}


def encode(value: object) -> Json:
    """Return the JSON form of a dataclass, tuple, CpuSet, number, text or None: every field, in order.

    Raises:
        TypeError: The value, or one inside it, is of no such type.
    """
    if isinstance(value, CpuSet):
        return str(value)
    if isinstance(value, StrEnum):
        return value.value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    msg = f"no JSON form for {type(value).__name__}"
    raise TypeError(msg)


def decode(kind: type[_T], data: Json, *, where: str) -> _T:
    """Return the dataclass of this kind that the JSON value describes.

    Args:
        kind: A dataclass whose fields are int, str, bool, CpuSet, dataclasses, ``X | None`` or ``tuple[X, ...]``.
        data: What json.loads returned.
        where: What the value is called in messages, for example ``shapes[0]``.

    Raises:
        UsageError: A key is unknown or missing, or a value is not of the field's type.
    """
    return typing.cast(_T, _decode(kind, data, where))


def mapping(data: Json, *, keys: tuple[str, ...], where: str) -> dict[str, Json]:
    """Return the JSON object after checking that it has exactly these keys.

    Raises:
        UsageError: It is no object, or a key is unknown or missing.
    """
    if not isinstance(data, dict):
        raise _refused(data, "an object", where)
    if unknown := sorted(data.keys() - set(keys)):
        msg = f"{where} has an unknown key {unknown[0]!r}; its keys are {', '.join(keys)}"
        raise UsageError(msg)
    if missing := [key for key in keys if key not in data]:
        msg = f"{where} has no {missing[0]!r}"
        raise UsageError(msg)
    return data


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _refused(data: Json, expected: str, where: str) -> UsageError:
    shown = repr(data)
    return UsageError(f"{where} is not {expected}: {shown if len(shown) <= 40 else shown[:37] + '...'}")  # noqa: PLR2004 - a line's width


def _decode(kind: Any, data: Json, where: str) -> object:  # noqa: ANN401 - a type hint has no common type
    while isinstance(kind, typing.NewType):
        kind = kind.__supertype__
    if kind in _SCALARS:
        if type(data) is not kind:  # not isinstance: True is an int
            raise _refused(data, _SCALARS[kind], where)
        return data
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if not isinstance(data, str) or data not in set(kind):
            raise _refused(data, " or ".join(kind), where)
        return kind(data)
    if kind is CpuSet:
        return _decode_cpus(data, where)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        inner = next(option for option in typing.get_args(kind) if option is not types.NoneType)
        return None if data is None else _decode(inner, data, where)
    if typing.get_origin(kind) is tuple:
        return _decode_tuple(typing.get_args(kind), data, where)
    hints = _hints(kind)
    values = mapping(data, keys=tuple(field.name for field in dataclasses.fields(kind)), where=where)
    return kind(**{name: _decode(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _decode_cpus(data: Json, where: str) -> CpuSet:
    if not isinstance(data, str):
        raise _refused(data, "a CPU list", where)
    try:
        return CpuSet.parse(data)
    except UsageError as error:
        raise _refused(data, "a CPU list", where) from error


def _decode_tuple(items: tuple[Any, ...], data: Json, where: str) -> tuple[object, ...]:
    if not isinstance(data, list):
        raise _refused(data, "a list", where)
    if items[-1] is Ellipsis:
        return tuple([_decode(items[0], item, f"{where}[{i}]") for i, item in enumerate(data)])
    if len(items) != len(data):
        raise _refused(data, f"a list of {len(items)}", where)
    return tuple([_decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(items, data, strict=True))])
