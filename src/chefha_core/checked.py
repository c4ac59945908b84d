"""Plain data into frozen dataclasses, with one clear sentence for every mistake.

A field's type says what is expected; ``metadata`` may add ``choices``, ``least``, ``most``, ``lines`` and ``help``.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any


class SettingsError(ValueError):
    """A setting is wrong; the text names the pillar path, what was found and what was expected."""


def setting(default: Any = dataclasses.MISSING, help: str = "", **checks: Any) -> Any:
    """A dataclass field with its explanation and its limits (``choices``, ``least``, ``most``).

    ``secret``: no message shows the value. ``lines``: a text of several lines, such as PEM.
    """
    metadata = {"help": help, **checks}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(kind: type, data: Any, path: str, secret: bool = False) -> Any:
    """An instance of the dataclass ``kind`` from a mapping; SettingsError for a wrong name, type or value."""
    if not isinstance(data, Mapping):
        raise SettingsError(f"pillar {path} is {_shown(data, secret)}; expected a mapping of settings")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for name in data:
        if name not in fields:
            raise SettingsError(f"pillar {path}:{name} is not a setting; known here: {', '.join(sorted(fields))}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data and data[name] is None and field.default is None:
            values[name] = None
        elif name in data:
            values[name] = _value(hints[name], data[name], f"{path}:{name}", field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(
                f"pillar {path}:{name} is missing; it has no default ({field.metadata.get('help', '')})"
            )
    return kind(**values)


def _value(kind: Any, value: Any, path: str, checks: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(kind):
        return build(typing.cast(type, kind), value, path, bool(checks.get("secret")))
    if isinstance(kind, types.UnionType) and value is None:
        return None
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    origin = typing.get_origin(kind) or kind
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_item(item, path, checks) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {_key(name, path): item for name, item in value.items()}
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        raise SettingsError(f"pillar {path} is {_shown(value, checks.get('secret'))}; expected {_named(origin)}")
    _check(value, path, checks)
    return value


def _item(item: Any, path: str, checks: Mapping[str, Any]) -> str:
    if isinstance(item, bool) or not isinstance(item, (str, int)):
        raise SettingsError(f"pillar {path} has {_shown(item, checks.get('secret'))}; expected a list of texts")
    _check_text(str(item), path, checks)
    return str(item)


def _key(name: Any, path: str) -> str:
    if not isinstance(name, str):
        raise SettingsError(f"pillar {path} has the name {name!r}; expected a text, which YAML wants in quotes here")
    return name


def _check(value: Any, path: str, checks: Mapping[str, Any]) -> None:
    if isinstance(value, str):
        _check_text(value, path, checks)
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"pillar {path} is {value}; expected a number")
    choices = checks.get("choices")
    if choices and value not in choices:
        raise SettingsError(f"pillar {path} is {_shown(value)}; expected one of {', '.join(map(str, choices))}")
    least, most = checks.get("least"), checks.get("most")
    if least is not None and value < least:
        raise SettingsError(f"pillar {path} is {value}; expected at least {least}")
    if most is not None and value > most:
        raise SettingsError(f"pillar {path} is {value}; expected at most {most}")


def _check_text(text: str, path: str, checks: Mapping[str, Any]) -> None:
    """One line: what follows a line's end would be a line of its own in a unit, a password file or a login rule."""
    several = checks.get("lines", False)
    if not (re.sub(r"[\r\n\t]", "", text) if several else text).isprintable():
        expected = "printable characters" if several else "one line of printable characters"
        raise SettingsError(f"pillar {path} is {_shown(text, checks.get('secret'))}; expected {expected}")


def _shown(value: Any, secret: object = False) -> str:
    """A value for people, without giving a secret away that YAML took for a number or the like."""
    return f"a {type(value).__name__} (not shown)" if secret else f"{value!r}"[:80]


def _named(kind: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        dict: "a mapping",
        tuple: "a list",
    }
    return names.get(kind, str(kind))
