"""How many followers (replicas) an index has: one on each other node, however many nodes there are.

The engine itself does the following: ``index.auto_expand_replicas: 0-all``. What is done here is to see to it that
every index has that setting, also one whose creator asked for a fixed number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chefha_core.parts.search import SearchClient, SearchRefused

SETTING = "index.auto_expand_replicas"
ALL = "0-all"
#: index.uuid, which every index has: one that has none of the settings asked for is left out of the answer
ASKED = f"/_all/_settings/{SETTING},index.uuid?flat_settings=true&expand_wildcards=open"
#: A legacy template, for it is merged with what an index or another template says. A composable one would put every
#: legacy template of somebody else out of action, and only one of those counts.
TEMPLATE = "/_template/chefha-followers"
BODY = {"index_patterns": ["*"], "order": -1, "settings": {SETTING: ALL}}


def ensure_followers(client: SearchClient) -> list[str]:
    """The template and the indexes are as they should be; which of them were not."""
    changed = []
    if not _has_template(client):
        client.put(TEMPLATE, BODY)
        changed.append("template")
    for name in without_setting(client.get(ASKED)):
        try:
            client.put(f"/{name}/_settings", {SETTING: ALL})
            changed.append(name)
        except SearchRefused:  # somebody deleted it meanwhile, or the engine keeps it to itself
            continue
    return changed


def _has_template(client: SearchClient) -> bool:
    try:
        found = client.get(f"{TEMPLATE}?flat_settings=true")
    except SearchRefused:
        return False
    return all(template.get(key) == BODY[key] for template in found.values() for key in ("settings", "index_patterns"))


def without_setting(answer: Mapping[str, Any]) -> list[str]:
    """The indexes that nobody has decided about. Those with a dot are the engine's own business."""
    return sorted(
        name
        for name, index in answer.items()
        if not name.startswith(".") and SETTING not in (index.get("settings") or {})
    )
