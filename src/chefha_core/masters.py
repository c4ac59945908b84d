"""Pillar ``chefha_masters``: which minions are Salt masters too."""

from __future__ import annotations

from chefha_core.checked import SettingsError


def masters(named: object) -> list[str]:
    """Their minion ids, from a list or one name; none where the pillar is empty. SettingsError otherwise."""
    ids = [named] if isinstance(named, str) else named or []
    if isinstance(ids, list) and all(isinstance(one, str) and one for one in ids):
        return ids
    raise SettingsError(f"pillar chefha_masters is {named!r:.80}; expected a list of minion ids, such as [master]")
