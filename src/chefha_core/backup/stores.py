"""Where archives lie: a folder of this machine, or a bucket of an S3-compatible store (s3_store.py).

An archive is written as ``NAME.NODE@CLUSTER.partial`` and gets its name when it is verified. What an earlier attempt
left is removed by `clear`: several nodes may write into one store at a time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from chefha_core.backup.errors import ArchiveError
from chefha_core.parts.postgres_tools import sync_directory
from chefha_core.settings import Backup

PARTIAL = ".partial"
#: seconds after which what was written of an archive is brought to the disk
FLUSH = 0.2
NAME = re.compile(r"chef-backup-\d{4}(-\d{2}){5}\.(tar\.zst|tgz)")
_PARTIAL = re.compile(rf"{NAME.pattern}\.(?P<node>[^@]+)@(?P<cluster>[^@]+){re.escape(PARTIAL)}")


@dataclass(frozen=True)
class Stored:
    """One archive. ``size`` in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Owner:
    """Whose attempt an archive in the making is. ``others``: the cluster's other members, who may be at their own."""

    cluster: str
    node: str
    others: tuple[str, ...] = ()

    def partial(self, name: str) -> str:
        """What the archive is called until it is verified."""
        return f"{name}.{self.node}@{self.cluster}{PARTIAL}"

    def left_over(self, name: str) -> bool:
        """Whether this is of an attempt that is over: this node's, or that of one that is no member any more."""
        found = _PARTIAL.fullmatch(name)
        return found is not None and found["cluster"] == self.cluster and found["node"] not in self.others


class Store(Protocol):
    """What a place for archives can do; each raises ArchiveError with one sentence."""

    def where(self, name: str = "") -> str:
        """The archive's place, or the store's, for people."""

    def archives(self) -> list[Stored]:
        """Every whole archive, oldest first."""

    def below(self, folder: str) -> list[str]:
        """The names of everything below a folder of the store, sorted."""

    def has(self, name: str) -> bool:
        """Whether there is one of this name."""

    def size(self, name: str) -> int:
        """Its bytes."""

    def room(self) -> int | None:
        """Bytes that are free, None if there is no end."""

    def clear(self, owner: Owner) -> None:
        """Remove what attempts that were cut short left here."""

    def receive(self, name: str, size: int) -> AbstractContextManager[int]:
        """A descriptor to write ``name`` to, about ``size`` bytes. What came is durable at the end of the block;
        after an exception it is gone.
        """

    def read(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Its bytes, from the start."""

    def rename(self, name: str, new: str) -> None:
        """Give it another name, which must be free, durably."""

    def remove(self, name: str) -> None:
        """Delete it, if it is there."""


class Directory:
    """A folder of this machine. It is made, for root alone, where it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def where(self, name: str = "") -> str:
        return str(self.folder / name)

    def archives(self) -> list[Stored]:
        with self._explained("cannot be read"):
            found = [path for path in self.folder.glob("chef-backup-*") if NAME.fullmatch(path.name)]
            return [Stored(path.name, path.stat().st_size) for path in sorted(found)]

    def below(self, folder: str) -> list[str]:
        with self._explained("cannot be read"):
            found = (self.folder / folder).rglob("*")
            return sorted(str(path.relative_to(self.folder)) for path in found if path.is_file())

    def has(self, name: str) -> bool:
        with self._explained("cannot be read"):
            try:
                (self.folder / name).stat()
            except FileNotFoundError:
                return False
            return True

    def size(self, name: str) -> int:
        with self._explained("cannot be read"):
            return (self.folder / name).stat().st_size

    def room(self) -> int | None:
        with self._explained("cannot be made"):
            # others may pass through: PostgreSQL's user gets to its own folder with the log
            self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            return shutil.disk_usage(self.folder).free

    def clear(self, owner: Owner) -> None:
        with self._explained("cannot be changed"):
            for path in self.folder.glob(f"chef-backup-*{PARTIAL}"):
                if owner.left_over(path.name):
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def receive(self, name: str, size: int) -> Iterator[int]:
        path = self.folder / name
        with self._explained("cannot be written"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            try:
                with ThreadPoolExecutor(1) as beside:
                    done = threading.Event()
                    flushing = beside.submit(_flush, fd, done)
                    try:
                        yield fd
                    finally:
                        done.set()
                with self._explained("cannot be written"):
                    flushing.result()
                    os.fsync(fd)
                # whoever reads it back reads the disk, and PostgreSQL's pages stay in memory
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[BinaryIO]:
        with self._explained("cannot be read"):
            file = (self.folder / name).open("rb", buffering=0)
        with file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            yield file

    def rename(self, name: str, new: str) -> None:
        if self.has(new):
            raise ArchiveError(f"{self.where(new)} is there already")
        with self._explained("cannot be changed"):
            (self.folder / name).rename(self.folder / new)
            *below, root = Path(new).parents  # the folder itself others than its owner may only pass through
            for folder in below or [root]:
                sync_directory(self.folder / folder)

    def remove(self, name: str) -> None:
        with self._explained("cannot be changed"):
            (self.folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArchiveError(f"{error.filename or self.folder} {what}: {error.strerror}") from None


def _flush(fd: int, done: threading.Event) -> None:
    """What is written goes to the disk on the way: a database on the same disk does not wait for all of it at once."""
    while not done.wait(FLUSH):
        os.fdatasync(fd)


def open_store(wanted: Backup) -> Store:
    """The store that the settings name."""
    if wanted.s3.bucket:
        from chefha_core.backup.s3_store import S3Store

        return S3Store(wanted.s3)
    return Directory(Path(wanted.directory))
