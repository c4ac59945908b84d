"""The major version of the data that are there: chefha upgrades PostgreSQL within one, never from one to the next."""

from __future__ import annotations

from pathlib import Path

from chefha_core.settings import Settings


def other_major(settings: Settings) -> str:
    """Why the pillar's PostgreSQL cannot run on this machine's data, "" if it can or there are none."""
    path = Path(settings.postgresql.data_dir) / "PG_VERSION"
    try:
        found = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    if found == str(settings.postgresql.version):
        return ""
    return (
        f"pillar chefha:postgresql:version is {settings.postgresql.version}, and the data in {path.parent} are "
        f"PostgreSQL {found}'s: chefha upgrades within a major version only; set chefha:postgresql:version to {found}, "
        "or lay out another cluster with the new version and bring the data over by pg_dumpall"
    )
