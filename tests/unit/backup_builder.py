"""Small archives for tests: a database directory that is none, with a backup_manifest as PostgreSQL writes it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping

from chefha_core.backup.archive import About
from chefha_core.backup.archive_writer import ArchiveWriter

SEGMENT = "000000010000000000000020"  # of 1 MiB
ABOUT = About("chefha", "be2", "7300000000000000000", 170002, "0/2000028", 1, "2026-11-25T04:00:00+00:00",
              "zstd", "0.1.0", 3 << 20)  # fmt: skip
FILES = {
    "backup_label": b"START WAL LOCATION: 0/2000028\n",
    "PG_VERSION": b"17\n",
    "global/pg_control": bytes(range(256)) * 32,
    "base/1/1259": b"some rows " * 5000,
    "base/1/empty": b"",
}
LOG = {f"pg_wal/{SEGMENT}": bytes(1 << 20)}


def manifest(files: Mapping[str, bytes]) -> bytes:
    """backup_manifest of these files."""
    entries = [
        {
            "Path": path,
            "Size": len(content),
            "Checksum-Algorithm": "SHA256",
            "Checksum": hashlib.sha256(content).hexdigest(),
        }
        for path, content in files.items()
    ]
    ranges = [{"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100"}]
    tree = {"PostgreSQL-Backup-Manifest-Version": 1, "Files": entries, "WAL-Ranges": ranges}
    body = json.dumps(tree)[:-1].encode() + b",\n"
    return body + b'"Manifest-Checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def plain(files: Mapping[str, bytes] | None = None, about: About = ABOUT) -> bytes:
    """The tar stream of an archive, not compressed."""
    sink = io.BytesIO()
    writer = ArchiveWriter(sink.write, about)
    writer.text("configuration/settings.json", b"{}")
    writer.text("search/README", b"reindex\n")
    content = FILES if files is None else files
    for path, data in {**content, **LOG, "backup_manifest": manifest(content)}.items():
        if "/" in path:
            folder = tarfile.TarInfo(path.rpartition("/")[0])
            folder.type, folder.mode = tarfile.DIRTYPE, 0o700
            writer.folder(folder)
        info = tarfile.TarInfo(path)
        info.size, info.mode = len(data), 0o600
        writer.file(info, io.BytesIO(data), lambda done: None)
    writer.finish()
    return sink.getvalue()


def compressed(stream: bytes, program: str = "zstd") -> bytes:
    """As an archive has it."""
    return subprocess.run([program, "-q", "-c"], input=stream, capture_output=True, check=True).stdout


def archive(files: Mapping[str, bytes] | None = None, program: str = "zstd") -> bytes:
    """A whole archive."""
    return compressed(plain(files), program)
