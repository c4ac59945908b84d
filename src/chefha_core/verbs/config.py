"""show-config and gen-secrets: the settings as the pillar has them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from chefha_core.settings import Secrets, Settings, from_pillar

MASK = "********"
#: names in what is passed on as it is, such as ldap['bind_password'] in frontend:settings
SECRET_WORDS = re.compile("password|passphrase|secret|token", re.IGNORECASE)
SECRET_NAMES = {field.name for field in dataclasses.fields(Secrets)} | {"key"}


def shown(settings: Settings) -> dict[str, Any]:
    """Every setting with its value, secrets masked."""
    masked: dict[str, Any] = masked_values(settings.to_dict())
    return masked


def masked_values(value: Any, secret: bool = False) -> Any:
    """The same tree with stars for what its name, or that of a tree around it, tells to be a secret."""
    if isinstance(value, Mapping):
        return {key: masked_values(item, secret or _is_secret(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked_values(item, secret) for item in value]
    return MASK if secret and value else value


def secret_values(value: Any, secret: bool = False) -> Iterator[str]:
    """What ``masked_values`` masks, as texts."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from secret_values(item, secret or _is_secret(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from secret_values(item, secret)
    elif secret and value and not isinstance(value, bool):
        yield str(value)


def _is_secret(name: Any) -> bool:
    return name in SECRET_NAMES or bool(SECRET_WORDS.search(str(name)))


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
