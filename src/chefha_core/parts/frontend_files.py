"""The files of the first front end that the others need: read, written, and kept in the database between the two.

They are in the schema ``chefha`` of the database postgres, which only the superuser of the front ends can look into:
no Salt channel and no other minion ever has them, and backups do.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2

from chefha_core.parts.postgres_sql import Session
from chefha_core.parts.postgres_tools import PostgresError, sync_directory

SECRETS = "/etc/opscode/private-chef-secrets.json"
MIGRATION_LEVEL = "/var/opt/opscode/upgrades/migration-level"
#: tells Chef that another front end has made users and databases already
SENTINEL = "/var/opt/opscode/bootstrapped"
REQUIRED = (SECRETS, MIGRATION_LEVEL)
#: with those that releases before 12.14 keep beside the secrets
FILES = (*REQUIRED, "/etc/opscode/pivotal.pem", "/etc/opscode/webui_priv.pem")

_IS_THERE = "SELECT to_regclass('chefha.frontend_files') IS NOT NULL"
_MAKE = """
CREATE SCHEMA IF NOT EXISTS chefha;
CREATE TABLE IF NOT EXISTS chefha.frontend_files (
  path text PRIMARY KEY,
  content bytea NOT NULL,
  owner text NOT NULL,
  sha256 text NOT NULL,
  published_by text NOT NULL,
  published_at timestamptz NOT NULL DEFAULT now()
);
REVOKE ALL ON SCHEMA chefha FROM PUBLIC;
REVOKE ALL ON chefha.frontend_files FROM PUBLIC
"""
_READ = "SELECT path, content, owner, sha256 FROM chefha.frontend_files ORDER BY path"
_WRITE = """
INSERT INTO chefha.frontend_files (path, content, owner, sha256, published_by) VALUES {rows}
ON CONFLICT (path) DO UPDATE SET content = excluded.content, owner = excluded.owner, sha256 = excluded.sha256,
  published_by = excluded.published_by, published_at = now()
"""


@dataclass(frozen=True)
class Piece:
    """One file; its content is a secret."""

    path: str
    content: bytes = field(repr=False)
    owner: str = "root"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


Pieces = dict[str, Piece]


def local(root: Path = Path("/")) -> Pieces:
    """Those of the files that are on this machine."""
    found = {}
    for path in FILES:
        place = _place(root, path)
        with suppress(FileNotFoundError, NotADirectoryError):
            found[path] = Piece(path, place.read_bytes(), _name_of(place.stat().st_uid))
    return found


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "root"


def missing(pieces: Iterable[str]) -> str:
    """Names of the required files that are not among these; "" if none."""
    return ", ".join(path for path in REQUIRED if path not in set(pieces))


def published(session: Session, until: float) -> Pieces:
    """What the first front end has put into the database, each with the checksum it was put there with."""
    if not session.rows(_IS_THERE, until)[0][0]:
        return {}
    found = {}
    for path, content, owner, sha256 in session.rows(_READ, until):
        piece = Piece(path, bytes(content), owner)
        if piece.sha256 != sha256:
            raise PostgresError(f"{path} in the table chefha.frontend_files does not have its own checksum any more")
        if path in FILES:  # whatever else stood there would be written as root
            found[path] = piece
    return found


def publish(session: Session, pieces: Iterable[Piece], name: str, until: float) -> None:
    """Put files into the database, all or none, as the front end ``name``."""
    if not session.rows(_IS_THERE, until)[0][0]:
        session.rows(_MAKE, until)
    rows, values = [], list[object]()
    for piece in pieces:
        rows.append("(%s, %s, %s, %s, %s)")
        values += [piece.path, psycopg2.Binary(piece.content), piece.owner, piece.sha256, name]
    if rows:
        session.rows(_WRITE.format(rows=", ".join(rows)), until, *values)


def write(piece: Piece, root: Path = Path("/")) -> None:
    """Write one file, 0600, whole or not at all (OSError); its owner is root while this machine has no such user."""
    place = _place(root, piece.path)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(piece.content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(LookupError):
            shutil.chown(temporary, piece.owner, piece.owner)
        temporary.replace(place)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(place)) from None
    sync_directory(place.parent)


def is_bootstrapped(root: Path = Path("/")) -> bool:
    """Whether Chef on this machine takes users and databases as made."""
    return _place(root, SENTINEL).exists()


def mark_bootstrapped(root: Path = Path("/")) -> None:
    """Tell Chef so."""
    place = _place(root, SENTINEL)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch(0o600)


def _place(root: Path, path: str) -> Path:
    return root / path.lstrip("/")
