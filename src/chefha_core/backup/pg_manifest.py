"""PostgreSQL's backup_manifest: what pg_verifybackup checks a base backup against.

Format: PostgreSQL's documentation, "Backup Manifest Format", versions 1 (13 to 16) and 2 (17).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chefha_core.backup.errors import ArchiveError
from chefha_core.model import parse_lsn

#: checksum of a manifest -> hashlib's name. CRC32C is none of Python's; chefha asks PostgreSQL for SHA256.
ALGORITHMS = {f"SHA{bits}": f"sha{bits}" for bits in (224, 256, 384, 512)}


@dataclass(frozen=True)
class FileFact:
    """Size in bytes and SHA-256 (hex) of one file."""

    size: int
    digest: str


@dataclass(frozen=True)
class WalRange:
    """The log that a backup needs to be consistent: bytes from ``start`` to ``end`` of one timeline."""

    timeline: int
    start: int
    end: int


@dataclass(frozen=True)
class PgManifest:
    """The files of a base backup by path, and the log it needs."""

    files: dict[str, FileFact]
    wal: tuple[WalRange, ...]


def parse(raw: bytes) -> PgManifest:
    """The manifest, checked against its own checksum; ArchiveError if it is damaged or of another kind."""
    body = raw[: raw.rfind(b"\n", 0, len(raw) - 1) + 1]  # the checksum is that of everything above its own line
    try:
        tree = json.loads(raw)
        own = str(tree["Manifest-Checksum"])
        if not hmac.compare_digest(own, hashlib.sha256(body).hexdigest()):
            raise ArchiveError("backup_manifest does not have the checksum that it says it has")
        wal = tuple(
            WalRange(int(r["Timeline"]), parse_lsn(r["Start-LSN"]), parse_lsn(r["End-LSN"])) for r in tree["WAL-Ranges"]
        )
        return PgManifest({_path(entry): _fact(entry) for entry in tree["Files"]}, wal)
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"backup_manifest is not one of PostgreSQL's ({type(error).__name__}: {error})") from None


def _path(entry: Mapping[str, Any]) -> str:
    if "Path" in entry:
        return str(entry["Path"])
    return bytes.fromhex(entry["Encoded-Path"]).decode("utf-8", "surrogateescape")


def _fact(entry: Mapping[str, Any]) -> FileFact:
    if entry.get("Checksum-Algorithm") != "SHA256":
        kind = entry.get("Checksum-Algorithm", "no")
        raise ArchiveError(f"backup_manifest has {kind} checksums; expected SHA256, as chefha asks for")
    return FileFact(int(entry["Size"]), str(entry["Checksum"]))


def difference(manifest: PgManifest, found: Mapping[str, FileFact]) -> str:
    """What is missing, too much or changed among the files of a base backup, one sentence; "" if nothing.

    ``found``: path -> fact. The log is not in the manifest; see `missing_wal`.
    """
    for path, wanted in manifest.files.items():
        there = found.get(path)
        if there is None:
            return f"{path} is missing, which backup_manifest has"
        if there.size != wanted.size:
            return f"{path} has {there.size} bytes, and {wanted.size} in backup_manifest"
        if not hmac.compare_digest(there.digest, wanted.digest):
            return f"{path} does not have its checksum of backup_manifest"
    surplus = sorted(path for path in found if path not in manifest.files and not is_log(path))
    return f"{surplus[0]} is not in backup_manifest" if surplus else ""


def is_log(path: str) -> bool:
    """True for what PostgreSQL puts beside the files of its manifest: the log, and the manifest itself."""
    return path == "backup_manifest" or path.startswith("pg_wal/")


def missing_wal(manifest: PgManifest, found: Mapping[str, FileFact]) -> str:
    """Which segment of the needed log is missing, one sentence; "" if none."""
    names = {path.removeprefix("pg_wal/"): fact.size for path, fact in found.items() if path.startswith("pg_wal/")}
    sizes = {size for name, size in names.items() if len(name) == 24}
    if len(sizes) != 1:
        return "there is no log (pg_wal)" if not sizes else "the segments of the log (pg_wal) differ in size"
    segment = sizes.pop()
    later = sorted({r.timeline for r in manifest.wal})
    for needed in manifest.wal:
        for number in range(needed.start // segment, max(needed.end - 1, needed.start) // segment + 1):
            # a segment in which the timeline changed may be there under the name of the later one only
            if not any(segment_name(t, number, segment) in names for t in later if t >= needed.timeline):
                return f"the log (pg_wal) lacks the segment {segment_name(needed.timeline, number, segment)}"
    return ""


def segment_name(timeline: int, number: int, size: int) -> str:
    """File name of the WAL segment ``number`` of ``size`` bytes."""
    per_id = (1 << 32) // size
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"
