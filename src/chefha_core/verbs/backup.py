"""backup: an archive of this node's data, verified, in the configured store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chefha_core.backup.chain import about_of
from chefha_core.backup.compression import ENDINGS
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.source import ask
from chefha_core.backup.stores import Store, open_store
from chefha_core.backup.take import Wish, take
from chefha_core.parts.postgres_tools import Places
from chefha_core.settings import Settings
from chefha_core.verbs.reach import VerbError

#: seconds a backup may take
TIMEOUT = 4 * 3600.0
#: what pg_basebackup accepts as --max-rate, MB/s
MOST_RATE, LEAST_RATE = 1024, 1
OnProgress = Callable[[str, int, int], None]
#: the word for the newest archive
NEWEST = "newest"


def backup(
    settings: Settings,
    name: str,
    force: bool = False,
    timeout: float = TIMEOUT,
    compression: str = "",
    max_rate: int = 0,
    incremental: str = "",
    on_progress: OnProgress = lambda phase, done, total: None,
    places: Places | None = None,
) -> dict[str, Any]:
    """Take one; VerbError with the reason if there is none afterwards. ``max_rate``: MB/s, 0: no limit.

    ``incremental``: only what changed since that archive (its name or path, or "newest").
    """
    began = time.monotonic()
    try:
        if compression not in ("", *ENDINGS):
            raise ArchiveError(f"compression is {compression!r}; expected {' or '.join(ENDINGS)}")
        if max_rate and not LEAST_RATE <= max_rate <= MOST_RATE:
            raise ArchiveError(f"max-rate is {max_rate}; expected MB/s from {LEAST_RATE} to {MOST_RATE}, or 0")
        store = open_store(settings.backup)
        wish = Wish(
            compression or settings.backup.compression,
            timeout,
            max_rate * 1000,
            _base(settings, store, incremental) if incremental else "",
            force,
        )
        done = take(settings, name, places or Places.of(settings), store, wish, on_progress)
    except ArchiveError as error:
        raise VerbError(f"backup: {error}") from None
    return {
        "archive": store.where(done.name),
        "bytes": done.size,
        "read": done.read,
        "seconds": round(time.monotonic() - began, 1),
        "incremental_of": done.about.incremental_of or None,
        "start_lsn": done.about.start_lsn,
        "timeline": done.about.timeline,
        "verified": True,
        "leader_asked": done.current,
        "retention": done.retention or None,
    }


def leads(settings: Settings, places: Places | None = None) -> bool:
    """Whether this node's PostgreSQL is the leader's; VerbError if it does not answer."""
    try:
        return ask(places or Places.of(settings)).leads
    except ArchiveError as error:
        raise VerbError(f"backup: {error}") from None


def _base(settings: Settings, store: Store, wanted: str) -> str:
    names = [stored.name for stored in store.archives()]
    if wanted == NEWEST:
        for name in reversed(names):
            if about_of(store, name).cluster == settings.cluster:
                return name
    if wanted == NEWEST or not names:
        raise ArchiveError(f"there is no archive in {store.where()} to build upon; take a full backup first")
    if Path(wanted).name not in names:
        raise ArchiveError(f"there is no archive {Path(wanted).name} in {store.where()}; there are {', '.join(names)}")
    return Path(wanted).name
