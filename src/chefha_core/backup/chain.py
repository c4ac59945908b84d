"""Incremental archives: which ones belong together, and the whole data directory from a chain of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from chefha_core.backup.archive import About, extract, read_about
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.stores import Store
from chefha_core.parts.postgres_tools import Places, PostgresError, run

#: an archive's name, and the compressed bytes of it that were read
OnProgress = Callable[[str, int], None]


def about_of(store: Store, name: str) -> About:
    """What an archive of the store says of itself; ArchiveError that names it."""
    with store.read(name) as stream:
        try:
            return read_about(stream)
        except ArchiveError as error:
            raise ArchiveError(f"{store.where(name)}: {error}; move it away if it is of no use") from None


def chain(store: Store, name: str) -> list[str]:
    """The archives that ``name`` needs, the full one first, itself last; ArchiveError if one is missing."""
    names = [name]
    while True:
        try:
            with store.read(names[0]) as stream:
                needed = read_about(stream).incremental_of
        except ArchiveError as error:
            raise ArchiveError(f"{store.where(names[0])}, which {name} needs: {error}") from None
        if not needed:
            return names
        if needed in names:
            raise ArchiveError(f"{store.where(needed)} says that it needs itself")
        names.insert(0, needed)


def extract_chain(
    store: Store, name: str, folder: Path, places: Places, timeout: float, on_progress: OnProgress = lambda n, d: None
) -> About:
    """The data directory of an archive, whether full or incremental, in ``folder`` (there, empty, its owner's).

    Every archive of the chain is verified as it is read. An incremental one is put together by pg_combinebackup, for
    which ``folder``'s disk holds the parts and the whole for a moment. ArchiveError if anything is wrong.
    """
    names = chain(store, name)
    if len(names) == 1:
        return _extract(store, name, folder, on_progress)
    parts = folder.with_name(f"{folder.name}.parts")
    shutil.rmtree(parts, ignore_errors=True)
    try:
        made = []
        for number, part in enumerate(names):
            made.append(_owned(_owned(parts, folder) / str(number), folder))
            about = _extract(store, part, made[-1], on_progress)
        if any(folder.iterdir()):
            raise ArchiveError(f"{folder} is not empty, so nothing is extracted there")
        try:
            run(places, ["pg_combinebackup", "-o", str(folder), *map(str, made)], timeout)
        except PostgresError as error:
            raise ArchiveError(f"{', '.join(names)} cannot be put together: {error}") from None
        return about
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _extract(store: Store, name: str, folder: Path, on_progress: OnProgress) -> About:
    with store.read(name) as stream:
        try:
            return extract(stream, folder, lambda done: on_progress(name, done))
        except ArchiveError as error:
            raise ArchiveError(f"{store.where(name)}: {error}") from None


def _owned(path: Path, like: Path) -> Path:
    owner = like.stat()
    path.mkdir(mode=0o700, exist_ok=True)
    os.chown(path, owner.st_uid, owner.st_gid)
    return path
