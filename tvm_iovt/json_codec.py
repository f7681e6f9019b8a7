"""Frozen dataclasses to plain JSON values and back, by their annotations alone.

JSON objects of types that name a `SCHEMA` carry `{"schema": "tvm-iovt/<thing>/<major>"}`; reading
an unknown major version is an error that names both versions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from tvm_iovt.errors import IovtError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A dataclass (or a container of them) as plain JSON values, with its schema if it has one."""
    if value is None or type(value) in (str, int, bool):  # most values, so that they are quick
        return value
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        schema = getattr(type(value), "SCHEMA", None)
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"schema": schema, **fields} if schema else fields
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity: "inf", "-inf", "nan"
    return value


def from_json(cls: type[T], data: Any) -> T:
    """The inverse of `to_json`.

    Raises:
        IovtError: The schema is missing or of another major version, a field is missing or
            unknown, or a value has the wrong type.
    """
    return typing.cast(T, _decode(cls, data, cls.__name__))


def _decode(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return _decode(inner, data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise _wrong(where, "a list", data)
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast("type[Any]", kind), data, where)
    if kind is float and (type(data) is int or data in ("inf", "-inf", "nan")):
        return float(data)
    if not isinstance(data, kind) or (kind is not bool and isinstance(data, bool)):
        raise _wrong(where, kind.__name__, data)
    return data


@functools.cache
def _type_hints(cls: type[Any]) -> dict[str, Any]:
    """Resolved annotations; finding them takes longer than decoding a record."""
    return typing.get_type_hints(cls)


def _without_schema(cls: type[Any], data: Any) -> Any:
    """The data of an object that carries its schema, which has to be the right one."""
    schema = getattr(cls, "SCHEMA", None)
    if schema is None:
        return data
    found = data.get("schema") if isinstance(data, dict) else None
    if found != schema:
        raise IovtError(
            f"This is not a {schema.split('/')[1]} that this version can read",
            seen=f"schema {found!r}; this version reads {schema!r}",
            do="use the tvm-iovt version that wrote it, or compile the model again",
        )
    return {key: item for key, item in data.items() if key != "schema"}


def _decode_dataclass(cls: type[Any], data: Any, where: str) -> Any:
    data = _without_schema(cls, data)
    if not isinstance(data, dict):
        raise _wrong(where, f"a {cls.__name__} object", data)
    hints = _type_hints(cls)  # type: ignore[arg-type]  # classes are hashable
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    missing = sorted(
        name
        for name, f in fields.items()
        if name not in data
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        parts = []
        if missing:
            parts.append(f"missing {', '.join(missing)}")
        if unknown:
            parts.append(f"unknown {', '.join(unknown)} (known: {', '.join(fields)})")
        raise IovtError(f"{where} has the wrong fields", seen="; ".join(parts))
    return cls(
        **{name: _decode(hints[name], item, f"{where}.{name}") for name, item in data.items()}
    )


def _wrong(where: str, wanted: str, data: Any) -> IovtError:
    return IovtError(f"{where} should be {wanted}", seen=f"{type(data).__name__} {data!r:.80}")
