"""Frozen records as JSON objects and back, between processes of different versions. Pure.

Gateways and workers are not replaced in one moment, so both read what the other's version wrote: fields that a reader
does not know are passed over, and fields that the writer did not know get their defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def to_fields(record: object) -> dict[str, Any]:
    """A record's fields, with what they hold as it is: `dataclasses.asdict` would copy all of it."""
    return {name: getattr(record, name) for name in _names(type(record))}


def from_fields(kind: type[T], values: Mapping[str, Any], **given: object) -> T:
    """The record; `given` goes before `values`. Raises ValueError where a field without a default is missing."""
    known = {name: values[name] for name in _names(kind) if name in values}
    try:
        return kind(**(known | given))
    except TypeError as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from error


def to_json(values: Mapping[str, Any]) -> str:
    """One line, as short as it gets."""
    return _ENCODER.encode(values)


def _names(kind: Any) -> Iterable[str]:  # noqa: ANN401  (any dataclass)
    names: Iterable[str] = kind.__dataclass_fields__
    return names
