"""Taking a backup: pg_basebackup's stream, with this node's configuration, compressed into a store, and read back.

Memory and disk do not grow with the database: it flows through, and what is written is the archive alone. Only the log
of the time of the backup is laid beside the database for a moment, where pg_waldump reads it.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pwd
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import chefha_core
from chefha_core.backup import pg_manifest
from chefha_core.backup.archive import About, verify
from chefha_core.backup.archive_writer import ArchiveWriter
from chefha_core.backup.chain import chain
from chefha_core.backup.compression import ENDINGS, compressor, damage, ended, widen
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.retention import retire
from chefha_core.backup.source import CATCH_UP, Deadline, Facts, ask, base_backup, catch_up, log_kept
from chefha_core.backup.stores import Owner, Store
from chefha_core.backup.tar_stream import CHUNK, TarStream
from chefha_core.model import format_lsn
from chefha_core.parts.postgres_tools import Places, PostgresError, run
from chefha_core.settings import Settings
from chefha_core.verbs.config import shown

#: bytes that must be free beside the archive: configuration, and what the database grows by meanwhile
SPARE = 64 << 20
#: phase, bytes done, bytes in all (a guess while it is being taken)
OnProgress = Callable[[str, int, int], None]
README = b"""\
The search index is not in this archive: it holds nothing that is not in the database.
After a restore, build it anew on a front end: chef-server-ctl reindex
"""
_CONFIGURATION = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")


@dataclass(frozen=True)
class Wish:
    """How a backup is to be taken. ``timeout`` in seconds, ``max_rate`` in kB/s (0: no limit); ``incremental``: name
    of the archive to build upon, "" for a full backup.
    """

    compression: str = "zstd"
    timeout: float = 14400.0
    max_rate: int = 0
    incremental: str = ""
    force: bool = False


@dataclass(frozen=True)
class Taken:
    """An archive that is in its place and verified. Sizes in bytes. ``current``: it has all that the leader held when
    it was asked for; False where no leader could be asked. ``retention``: why older archives could not be deleted, "".
    """

    name: str
    size: int
    read: int
    current: bool
    retention: str
    about: About


def owner(settings: Settings, node: str) -> Owner:
    """Whose attempt an archive in the making is."""
    return Owner(settings.cluster, node, tuple(name for name in settings.members if name != node))


def refusal(facts: Facts, wish: Wish, store: Store) -> str:
    """Why no backup is taken of a PostgreSQL like this into a store like this, "" if one is."""
    if facts.leads and not wish.force:
        return (
            "this node leads, and a backup would slow down what its clients use; run it on a follower, or give --force"
        )
    if facts.tablespaces:
        return f"there are tablespaces ({facts.tablespaces}), which an archive cannot hold; move their tables back"
    if wish.incremental and not facts.summarizes:
        return (
            "PostgreSQL does not note what changes, so no incremental backup is possible; it needs PostgreSQL 17 and "
            "chefha:backup:incremental"
        )
    room = store.room()
    if room is not None and room < facts.size + SPARE:
        return (
            f"not enough room in {store.where()}: {(facts.size + SPARE) >> 20} MiB may be needed (the databases have "
            f"that size, how far they can be compressed is not known before), {room >> 20} MiB are free; make room, or "
            "set chefha:backup:directory to a larger disk"
        )
    return ""


def take(settings: Settings, node: str, places: Places, store: Store, wish: Wish, on_progress: OnProgress) -> Taken:
    """Take one, verify it, and give it its name; ArchiveError if that does not succeed, and then nothing is kept."""
    deadline = Deadline(wish.timeout)
    try:
        with _alone(places):
            facts = ask(places)
            if problem := refusal(facts, wish, store):
                raise ArchiveError(problem)
            store.clear(owner(settings, node))
            current = facts.leads or catch_up(places, settings, node, min(deadline.left, CATCH_UP))
            with _beside(places) as beside:
                return _Taking(settings, node, places, store, wish, on_progress, deadline, facts, current, beside).run()
    except ArchiveError:
        deadline.check()  # says so if it was the deadline that ended it
        raise
    finally:
        deadline.close()


@contextlib.contextmanager
def _alone(places: Places) -> Iterator[None]:
    """One backup at a time on a node."""
    try:
        fd = os.open(places.home / ".backup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ArchiveError(
            f"the folder of PostgreSQL's data, {places.home}, cannot be used: {error.strerror}; a backup is taken by "
            "root on a back end whose states were applied"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ArchiveError("another backup is being taken on this node; wait for its end") from None
    finally:
        os.close(fd)


@contextlib.contextmanager
def _beside(places: Places) -> Iterator[Path]:
    """A folder of PostgreSQL's user for a moment, on the database's own disk; never /tmp."""
    folder = places.home / "backup.check"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            user = pwd.getpwnam(places.user)
            os.chown(folder, user.pw_uid, user.pw_gid)
        yield folder
    except OSError as error:
        raise ArchiveError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Taking:
    """One backup under way."""

    settings: Settings
    node: str
    places: Places
    store: Store
    wish: Wish
    on_progress: OnProgress
    deadline: Deadline
    facts: Facts
    current: bool
    beside: Path
    read: int = 0

    def run(self) -> Taken:
        began = datetime.datetime.now(datetime.UTC)
        partial = owner(self.settings, self.node).partial(self._free(began))
        manifest = self._base_manifest() if self.wish.incremental else None
        with log_kept(self.places), self.store.receive(partial, self.facts.size) as output:
            about = self._stream(output, manifest, began)
        try:
            self._read_back(partial)
            name = self._free(began)  # once more: another node may have finished one that it began in the same second
            self.store.rename(partial, name)
        except BaseException:
            self.store.remove(partial)
            raise
        size = self.store.size(name)
        if self.wish.incremental:
            self._based(name)
        retention = retire(self.store, self.settings.cluster, self.settings.backup.keep, name)
        return Taken(name, size, self.read, self.current, retention, about)

    def _based(self, name: str) -> None:
        """What it builds upon is still there: another node may have finished one meanwhile, and retired that."""
        try:
            chain(self.store, name)
        except ArchiveError as error:
            self.store.remove(name)
            raise ArchiveError(f"{error}; take a full backup") from None

    def _free(self, began: datetime.datetime) -> str:
        """The name of an archive begun then, or in the next second that is free."""
        taken = {stored.name.partition(".")[0] for stored in self.store.archives()}
        while (stem := f"chef-backup-{began:%Y-%m-%d-%H-%M-%S}") in taken:
            began += datetime.timedelta(seconds=1)
        return stem + ENDINGS[self.wish.compression]

    def _progress(self, phase: str, done: int, total: int) -> None:
        self.deadline.check()
        self.on_progress(phase, done, total)

    def _base_manifest(self) -> Path:
        """backup_manifest of the archive to build upon, which is read and verified for it."""
        name, folder = self.wish.incremental, self._folder("base")
        total = self.store.size(name)
        with self.store.read(name) as stream:
            try:
                about = verify(stream, lambda done: self._progress("reading", done, total), folder)
            except ArchiveError as error:
                self.deadline.check()
                raise ArchiveError(f"{self.store.where(name)}: {error}; take a full backup") from None
        if about.system_identifier != self.facts.system_identifier:
            raise ArchiveError(f"{self.store.where(name)} is of another database; take a full backup")
        return folder / "backup_manifest"

    def _folder(self, name: str) -> Path:
        made, owner = self.beside / name, self.beside.stat()
        made.mkdir(mode=0o700)
        os.chown(made, owner.st_uid, owner.st_gid)
        return made

    def _stream(self, output: int, manifest: Path | None, began: datetime.datetime) -> About:
        source = base_backup(self.places, self.wish.max_rate, manifest)
        self.deadline.watch(source)
        packer = compressor(self.wish.compression, output)
        self.deadline.watch(packer)
        assert source.stdout is not None and packer.stdin is not None
        widen(packer.stdin)
        about, problem = None, ""
        try:
            about = self._repack(source.stdout, packer.stdin, began)
            packer.stdin.close()
        except ArchiveError as error:
            problem = str(error)
        except (tarfile.TarError, BrokenPipeError):
            pass  # one of the programs has ended, and says why
        with source.stdout, contextlib.suppress(BrokenPipeError):
            packer.stdin.close()
        said, packed = ended(source), ended(packer)
        if packed:
            raise ArchiveError(f"{self.store.where()} cannot be written: {packed}")
        if problem:
            raise ArchiveError(problem)
        if said or about is None:
            raise ArchiveError(f"pg_basebackup failed: {_in_a_line(said) or 'its stream has an early end'}")
        return about

    def _repack(self, source: IO[bytes], sink: IO[bytes], began: datetime.datetime) -> About:
        """pg_basebackup's entries as an archive's. The first one, backup_label, says where the log begins."""
        tar = TarStream(source)
        entry = tar.next()
        if entry is None:
            raise tarfile.ReadError("pg_basebackup sent nothing")
        if entry.name != "backup_label":
            raise ArchiveError(f"pg_basebackup began with {entry.name}; expected backup_label")
        text = tar.text(entry)
        about = self._about(text.decode("utf-8", "replace"), began)
        writer = ArchiveWriter(sink.write, about)
        self._configuration(writer)
        writer.file(entry, [text], self._count)
        while (entry := tar.next()) is not None:
            self._entry(tar, entry, writer)
        manifest = writer.finish()
        while source.read(CHUNK):
            pass
        self._read_log(manifest)
        return about

    def _entry(self, tar: TarStream, entry: tarfile.TarInfo, writer: ArchiveWriter) -> None:
        entry.name = entry.name.removeprefix("./")
        if entry.isdir():
            writer.folder(entry)
        elif entry.isreg():
            content: Iterable[memoryview] = tar.content(entry)
            folder, _, name = entry.name.rpartition("/")
            if folder == "pg_wal":
                content = self._kept(name, entry.size, content)
            writer.file(entry, content, self._count)
        else:
            raise ArchiveError(f"{entry.name} is neither a file nor a folder, which an archive cannot hold")

    def _count(self, done: int) -> None:
        self.read += done
        self._progress("taking", self.read, self.facts.size)

    def _about(self, label: str, began: datetime.datetime) -> About:
        start = re.search(r"START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+)", label)
        timeline = re.search(r"START TIMELINE: (\d+)", label)
        if start is None or timeline is None:
            raise ArchiveError("backup_label does not say where the log begins")
        return About(
            cluster=self.settings.cluster,
            node=self.node,
            system_identifier=self.facts.system_identifier,
            server_version=self.facts.version,
            start_lsn=start.group(1),
            timeline=int(timeline.group(1)),
            time=began.isoformat(timespec="seconds"),
            encoding=self.wish.compression,
            chefha=chefha_core.__version__,
            size=self.facts.size,
            incremental_of=self.wish.incremental,
        )

    def _configuration(self, writer: ArchiveWriter) -> None:
        """This node's settings, and its rendered files, none of which holds a secret."""
        writer.text("configuration/settings.json", json.dumps(shown(self.settings), indent=2).encode() + b"\n")
        for name in _CONFIGURATION:
            with contextlib.suppress(FileNotFoundError):
                writer.text(f"configuration/postgresql/{name}", (self.places.config.parent / name).read_bytes())
        writer.text("search/README", README)

    def _kept(self, name: str, size: int, content: Iterable[memoryview]) -> Iterator[memoryview]:
        """A file of the log as it passes, and beside the database, where pg_waldump reads it."""
        free = shutil.disk_usage(self.beside).free
        if free < size + SPARE:
            raise ArchiveError(
                f"the log of the backup cannot be checked: {(size + SPARE) >> 20} MiB are needed for a moment in "
                f"{self.places.home}, {free >> 20} MiB are free"
            )
        log, owner = self.beside / "pg_wal", self.beside.stat()
        if not log.exists():
            self._folder("pg_wal")
        with (log / name).open("wb") as copy:
            os.fchown(copy.fileno(), owner.st_uid, owner.st_gid)
            for piece in content:
                copy.write(piece)
                yield piece

    def _read_log(self, manifest: pg_manifest.PgManifest) -> None:
        """The log that the backup needs, by pg_waldump, as pg_verifybackup has it."""
        for needed in manifest.wal:
            argv = ["pg_waldump", "-q", "-p", str(self.beside / "pg_wal"), "-t", str(needed.timeline)]
            argv += ["-s", format_lsn(needed.start), "-e", format_lsn(needed.end)]
            try:
                run(self.places, argv, max(1.0, self.deadline.left))
            except PostgresError as error:
                raise ArchiveError(f"the backup does not verify: {error}; it was removed") from None
        shutil.rmtree(self.beside / "pg_wal")

    def _read_back(self, partial: str) -> None:
        """What lies in the store must expand to what was compressed, of which every checksum was compared."""
        total = self.store.size(partial)
        with self.store.read(partial) as stream:
            problem = damage(stream, lambda done: self._progress("verifying", done, total))
        self.deadline.check()
        if problem:
            raise ArchiveError(f"the backup does not verify: {problem}; it was removed")


def _in_a_line(said: str) -> str:
    """What a program of PostgreSQL printed, as part of a sentence."""
    if "little activity since" in said:
        return "the leader has made no checkpoint since the archive to build upon; take it later, or a full one"
    lines = [line.strip().removeprefix("pg_basebackup: ").removeprefix("error: ") for line in said.splitlines()]
    return "; ".join(line for line in lines if line)[:500]
