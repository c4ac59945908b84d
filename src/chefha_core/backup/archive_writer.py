"""Writing an archive entry by entry into a stream, with the checksums that its reader wants."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from collections.abc import Callable, Iterable

from chefha_core.backup import pg_manifest
from chefha_core.backup.archive import ABOUT, DATA, MANIFEST, PG_MANIFEST, TEXT_LIMIT, About, covers
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.pg_manifest import FileFact, PgManifest


class ArchiveWriter:
    """Entries in the order of the format; ``write`` takes what comes next of the (uncompressed) stream."""

    def __init__(self, write: Callable[[bytes | memoryview], object], about: About) -> None:
        self._write = write
        self._facts: dict[str, FileFact] = {}
        self._pg_manifest = b""
        self.text(ABOUT, about.dump())

    def text(self, name: str, content: bytes) -> None:
        """One entry from memory."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(content), 0o600, int(time.time())
        self._header(info)
        self._write(content)
        self._pad(info.size)
        self._facts[name] = FileFact(info.size, hashlib.sha256(content).hexdigest())

    def file(
        self, info: tarfile.TarInfo, content: Iterable[bytes | memoryview], on_bytes: Callable[[int], None]
    ) -> None:
        """One entry of the base backup, whose name is that within the data directory; ``content`` in pieces."""
        name = info.name = DATA + info.name
        digest, kept = hashlib.sha256(), []
        if name == PG_MANIFEST and info.size > TEXT_LIMIT:
            raise ArchiveError(f"backup_manifest has {info.size} bytes, more than an archive can take")
        self._header(info)
        for piece in content:
            self._write(piece)
            digest.update(piece)
            on_bytes(len(piece))
            if name == PG_MANIFEST:
                kept.append(bytes(piece))
        self._pad(info.size)
        self._facts[name] = FileFact(info.size, digest.hexdigest())
        if kept:
            self._pg_manifest = b"".join(kept)

    def folder(self, info: tarfile.TarInfo) -> None:
        """One folder of the base backup."""
        info.name = DATA + info.name
        self._header(info)

    def finish(self) -> PgManifest:
        """The last entry; returns backup_manifest. ArchiveError if the base backup is not what that says."""
        if not self._pg_manifest:
            raise ArchiveError("the base backup has no backup_manifest")
        manifest = pg_manifest.parse(self._pg_manifest)
        data = {name.removeprefix(DATA): fact for name, fact in self._facts.items() if name.startswith(DATA)}
        if problem := pg_manifest.difference(manifest, data) or pg_manifest.missing_wal(manifest, data):
            raise ArchiveError(f"the base backup is not as PostgreSQL's backup_manifest has it: {problem}")
        entries = {n: {"size": f.size, "sha256": f.digest} for n, f in self._facts.items() if covers(n)}
        self.text(MANIFEST, json.dumps({"entries": entries}, indent=1).encode() + b"\n")
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        return manifest

    def _header(self, info: tarfile.TarInfo) -> None:
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _pad(self, size: int) -> None:
        if rest := size % tarfile.BLOCKSIZE:
            self._write(bytes(tarfile.BLOCKSIZE - rest))
