"""show-config and gen-secrets: the settings as the pillar has them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from chefha_core.settings import Secrets, Settings, from_pillar

MASK = "********"
#: names in what is passed on as it is, such as ldap['bind_password'] in frontend:settings
SECRET_WORDS = re.compile("password|passphrase|secret|token", re.IGNORECASE)
SECRET_NAMES = {field.name for field in dataclasses.fields(Secrets)} | {"key"}


def shown(settings: Settings) -> dict[str, Any]:
    """Every setting with its value, secrets masked."""
    masked: dict[str, Any] = _masked(settings.to_dict())
    return masked


def _masked(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(item, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    secret = name in SECRET_NAMES or SECRET_WORDS.search(name)
    return MASK if secret and value else value


def fresh_pillar(members: Mapping[str, str], vip: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """A complete pillar tree with fresh secrets and certificates, checked before it is shown to anybody."""
    from chefha_core import secrets  # needs cryptography, which nothing else does

    tree = {"members": dict(members), "vip": vip, **more}
    made = secrets.generate(members, vip)
    tree |= {key: made[key] for key in ("secrets", "tls")}
    from_pillar(tree)
    return {"chefha": tree}


def to_yaml(value: Mapping[str, Any], indent: int = 0) -> str:
    """Nested mappings of plain values as YAML, long texts as blocks (the library does without a YAML package)."""
    lines = []
    pad = " " * indent
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            lines.append(f"{pad}{key}:\n{to_yaml(item, indent + 2)}")
        elif isinstance(item, str) and "\n" in item:
            block = "".join(f"{pad}  {line}\n" for line in item.rstrip("\n").split("\n"))
            lines.append(f"{pad}{key}: |\n{block}")
        else:
            lines.append(f"{pad}{key}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    """A value as YAML; JSON's notation is YAML too."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
