"""/etc/chefha/node.json: what this machine brought along when it joined, beside its pillar (verb join-cluster).

Secrets and certificates, where neither master nor pillar has them, and this machine's own interface for the VIP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chefha_core.checked import SettingsError

NODE_FILE = Path("/etc/chefha/node.json")
#: branches of the pillar that a secrets file has
BRANCHES = ("secrets", "tls")


def completed(pillar: Any, path: Path | None = None) -> Any:
    """The pillar with what it lacks from the file; the interface is the file's. SettingsError if it cannot be read."""
    brought = read(path or NODE_FILE)
    if not brought or not isinstance(pillar, Mapping):
        return pillar
    tree = dict(pillar)
    for branch in BRANCHES:
        own = tree.get(branch, {})
        if isinstance(own, Mapping):
            tree[branch] = {**brought.get(branch, {}), **own}
    if interface := brought.get("vip_interface"):
        tree["vip_interface"] = interface
    return tree


def read(path: Path) -> dict[str, Any]:
    """What the file has, {} where there is none. SettingsError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); delete it and join again") from None
    return data if isinstance(data, dict) else {}


def write(data: Mapping[str, Any], path: Path) -> None:
    """Write it for root alone, at once or not at all. OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    new.replace(path)
