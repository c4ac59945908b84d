"""The archive: what is in it, in which order, and how it is read. Writing it: archive_writer.py.

One compressed tar stream (POSIX pax): ``chefha/about.json``, ``configuration/…``, ``search/README``,
``postgresql/…`` as pg_basebackup gives it, and last ``chefha/manifest.json``. An archive is read once, from begin to
end, in memory that does not grow with it, and everything in it is checked: the files of the base backup against
PostgreSQL's backup_manifest, everything else against chefha/manifest.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from chefha_core.backup import pg_manifest
from chefha_core.backup.compression import Expanded, expanded
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.pg_manifest import FileFact
from chefha_core.backup.tar_stream import TarStream
from chefha_core.parts.postgres_tools import sync_directory

FORMAT = 1
ABOUT, MANIFEST = "chefha/about.json", "chefha/manifest.json"
DATA, PG_MANIFEST = "postgresql/", "postgresql/backup_manifest"
#: the folders within an archive, in order
ORDER = ("chefha/", "configuration/", "search/", DATA)
#: bytes of a text that is held in memory, at most; backup_manifest takes about 180 for a file of the database
TEXT_LIMIT = 256 << 20
OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class About:
    """Where an archive is from. ``size``: bytes of the databases; ``incremental_of``: name of the archive it needs."""

    cluster: str
    node: str
    system_identifier: str
    #: as PostgreSQL's server_version_num has it, such as 170002
    server_version: int
    start_lsn: str
    timeline: int
    #: when it was begun, ISO 8601, UTC
    time: str
    encoding: str
    chefha: str
    size: int
    incremental_of: str = ""
    format: int = FORMAT

    def dump(self) -> bytes:
        """chefha/about.json."""
        return json.dumps(dataclasses.asdict(self), indent=2).encode() + b"\n"


def nothing(done: int) -> None:
    """No progress is wanted."""


def verify(stream: BinaryIO, on_progress: OnProgress = nothing, aside: Path | None = None) -> About:
    """Read a whole archive and check everything in it; ArchiveError, one sentence, if anything is wrong.

    ``on_progress`` gets the bytes of ``stream`` read so far. The folder ``aside``, which must be empty, gets
    ``backup_manifest``, which the next incremental backup asks for.
    """
    return _Walk(aside, lambda path: path == "backup_manifest").over(stream, on_progress)


def extract(stream: BinaryIO, folder: Path, on_progress: OnProgress = nothing) -> About:
    """The same, and write the data directory (what is below ``postgresql/``) to ``folder``.

    ``folder`` must be there and empty; what is written belongs to its owner, and is on disk when this returns.
    Nothing is ever written outside it. What is in it after an ArchiveError is of no use.
    """
    about = _Walk(folder, lambda path: True).over(stream, on_progress)
    _sync(folder)
    return about


def read_about(stream: BinaryIO) -> About:
    """Only its first entry: where an archive is from. Says nothing about whether it is whole."""
    with expanded(stream, nothing) as plain:
        try:
            tar = TarStream(plain.file)
            entry = tar.next()
            if entry is None or entry.name != ABOUT or entry.size > TEXT_LIMIT:
                raise ArchiveError(f"it is not an archive of chefha: it does not begin with {ABOUT}")
            return _about(tar.text(entry))
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise ArchiveError(f"it is not an archive of chefha ({error})") from None


class _Walk:
    """One pass over an archive. ``wanted``: which paths of the data directory are written to ``folder``."""

    def __init__(self, folder: Path | None, wanted: Callable[[str], bool]) -> None:
        self._folder, self._wanted = folder, wanted
        self._found: dict[str, FileFact] = {}
        self._texts: dict[str, bytes] = {}
        self._last = ""
        if folder is not None:
            if any(folder.iterdir()):
                raise ArchiveError(f"{folder} is not empty, so nothing is extracted there")
            owner = folder.stat()
            self._owner = (owner.st_uid, owner.st_gid)

    def over(self, stream: BinaryIO, on_progress: OnProgress) -> About:
        """Everything, in order."""
        with expanded(stream, on_progress) as plain:
            try:
                about = self._read(plain)
            except tarfile.TarError as error:
                short = f"it is truncated: it ends within or after {self._last}" if "end of data" in str(error) else ""
                raise ArchiveError(plain.problem() or short or f"{self._where()}: {error}") from None
            except (ValueError, OverflowError, EOFError) as error:  # numbers in headers that are none
                raise ArchiveError(f"{self._where()}: {error}") from None
            if problem := plain.problem():
                raise ArchiveError(problem)
        self._judge()
        return about

    def _where(self) -> str:
        return f"it is damaged after {self._last}" if self._last else "it is not an archive of chefha: no tar within"

    def _read(self, plain: Expanded) -> About:
        about, tar = None, TarStream(plain.file)
        while (entry := tar.next()) is not None:
            if about is None:
                about = _about(self._first(tar, entry))
            else:
                self._entry(tar, entry)
        if self._last != MANIFEST or about is None:
            raise ArchiveError(plain.problem() or f"it is truncated or damaged after {self._last or 'its begin'}")
        _rest(tar)
        return about

    def _first(self, tar: TarStream, entry: tarfile.TarInfo) -> bytes:
        if entry.name != ABOUT or not entry.isreg():
            raise ArchiveError(f"it is not an archive of chefha: it begins with {entry.name}, not with {ABOUT}")
        self._entry(tar, entry)
        return self._texts[ABOUT]

    def _entry(self, tar: TarStream, entry: tarfile.TarInfo) -> None:
        name = entry.name
        self._check_name(name)
        if not (entry.isreg() or entry.isdir()):
            raise ArchiveError(f"{name} is neither a file nor a folder, which no archive of chefha has")
        path = name.removeprefix(DATA) if name.startswith(DATA) else ""
        target = self._folder / path if self._folder and path and self._wanted(path) else None
        if entry.isdir():
            if target is not None and target != self._folder:
                self._make_folder(target, entry.mode)
        else:
            keep = bytearray() if name in (ABOUT, MANIFEST, PG_MANIFEST) else None
            self._found[name] = self._copy(tar, entry, target, keep)
            if keep is not None:
                self._texts[name] = bytes(keep)
        self._last = name

    def _check_name(self, name: str) -> None:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or not name.startswith(ORDER):
            raise ArchiveError(f"it has an entry {name!r}, which no archive of chefha has")
        if name in self._found:
            raise ArchiveError(f"it has {name} twice")
        if self._last == MANIFEST:
            raise ArchiveError(f"it goes on with {name} after its end, {MANIFEST}")
        if name != MANIFEST and self._last and _rank(name) < _rank(self._last):
            raise ArchiveError(f"{name} is not in its place, it comes after {self._last}")

    def _copy(self, tar: TarStream, entry: tarfile.TarInfo, target: Path | None, keep: bytearray | None) -> FileFact:
        digest = hashlib.sha256()
        if keep is not None and entry.size > TEXT_LIMIT:
            raise ArchiveError(f"{entry.name} has {entry.size} bytes, more than an archive of chefha has there")
        sink = self._create(target, entry.mode) if target else None
        try:
            for piece in tar.content(entry):
                digest.update(piece)
                if keep is not None:
                    keep += piece
                if sink is not None:
                    sink.write(piece)
        except OSError as error:
            raise ArchiveError(f"{target} cannot be written: {error.strerror}") from None
        finally:
            if sink is not None:
                sink.close()
        return FileFact(entry.size, digest.hexdigest())

    def _make_folder(self, path: Path, mode: int) -> None:
        try:
            if not path.parent.exists():
                self._make_folder(path.parent, 0o700)
            path.mkdir(mode=0o700, exist_ok=True)
            os.chown(path, *self._owner)
            path.chmod(mode & 0o750 | 0o700)
        except OSError as error:
            raise ArchiveError(f"{path} cannot be made: {error.strerror}") from None

    def _create(self, path: Path, mode: int) -> IO[bytes]:
        """A new file; never through a link: the archive has none, and the folder was empty."""
        try:
            if not path.parent.exists():
                self._make_folder(path.parent, 0o700)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            os.fchown(fd, *self._owner)
            os.fchmod(fd, mode & 0o640 | 0o600)
        except OSError as error:
            raise ArchiveError(f"{path} cannot be made: {error.strerror}") from None
        return os.fdopen(fd, "wb")

    def _judge(self) -> None:
        if PG_MANIFEST not in self._texts:
            raise ArchiveError("it has no backup_manifest, so its database cannot be checked")
        manifest = pg_manifest.parse(self._texts[PG_MANIFEST])
        data = {name.removeprefix(DATA): fact for name, fact in self._found.items() if name.startswith(DATA)}
        own = {name: fact for name, fact in self._found.items() if covers(name) and name != MANIFEST}
        problem = _own_difference(self._texts[MANIFEST], own)
        problem = problem or pg_manifest.difference(manifest, data) or pg_manifest.missing_wal(manifest, data)
        if problem:
            raise ArchiveError(f"it is damaged: {problem}")


def covers(name: str) -> bool:
    """True for entries that chefha/manifest.json has: all but those that backup_manifest has."""
    return not name.startswith(DATA) or pg_manifest.is_log(name.removeprefix(DATA))


def _rank(name: str) -> int:
    return next(i for i, folder in enumerate(ORDER) if name.startswith(folder))


def _about(raw: bytes) -> About:
    try:
        tree = json.loads(raw)
        number = tree.get("format")
        if number != FORMAT:
            raise ArchiveError(f"it has the format {number}, and this version of chefha knows only {FORMAT}")
        known: dict[str, Any] = {f.name: tree[f.name] for f in dataclasses.fields(About) if f.name in tree}
        return About(**known)
    except (ValueError, TypeError, AttributeError) as error:
        raise ArchiveError(f"it is not an archive of chefha: {ABOUT} is damaged ({error})") from None


def _own_difference(raw: bytes, found: dict[str, FileFact]) -> str:
    try:
        wanted = {name: FileFact(int(e["size"]), str(e["sha256"])) for name, e in json.loads(raw)["entries"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    if names := sorted(wanted.keys() - found.keys()):
        return f"{names[0]} is missing, which {MANIFEST} has"
    if names := sorted(found.keys() - wanted.keys()):
        return f"{names[0]} is not in {MANIFEST}"
    changed = sorted(name for name in wanted if wanted[name] != found[name])
    return f"{changed[0]} does not have its checksum of {MANIFEST}" if changed else ""


def _rest(tar: TarStream) -> None:
    """What follows the end of the tar stream must be nothing but zeros."""
    while chunk := tar.read(tarfile.RECORDSIZE):
        if chunk.strip(b"\0"):
            raise ArchiveError(f"it goes on after its end, {MANIFEST}")


def _sync(folder: Path) -> None:
    """Bring everything below ``folder`` to the disk."""
    for place, _, files in os.walk(folder):
        for name in files:
            fd = os.open(Path(place, name), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_directory(Path(place))
