"""The archived log: PostgreSQL hands over each segment when it is full, and asks for them in a restore.

    archive_command = 'PYTHON -P -m chefha_core.backup.wal push %p'
    restore_command = 'PYTHON -P -m chefha_core.backup.wal fetch %f %p'

Run by PostgreSQL as its user, in the data directory; where the archive is, stands in `CONFIG`. A segment is there under
``wal/SYSTEM_IDENTIFIER/`` as soon as it is durable, compressed. The same segment again is fine, another content under
its name never is. Exit codes: 0 done; 1 not there (fetch), or try again later (push); 200 ends a recovery, which must
not take an archive that cannot be read for the end of the log.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from chefha_core.backup.compression import compressor, ended, expanded
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.pg_manifest import segment_name
from chefha_core.backup.stores import PARTIAL, Store, open_store
from chefha_core.backup.tar_stream import CHUNK
from chefha_core.checked import SettingsError, build
from chefha_core.parts.postgres_tools import Places
from chefha_core.settings import Backup, Settings

#: what the states write for PostgreSQL's user: the part `backup` of the settings
CONFIG = Path("/etc/chefha/postgresql/backup.json")
BROKEN = 200
#: bytes of a segment, as initdb makes them
SEGMENT = 16 << 20


def config_text(settings: Settings) -> str:
    """The file `CONFIG`."""
    return json.dumps(dataclasses.asdict(settings.backup), indent=2, sort_keys=True)


def archive_command(python: str = sys.executable) -> str:
    """As postgresql.conf has it. -P: nothing is imported from the data directory."""
    return f'{python} -P -m chefha_core.backup.wal push "%p"'


def restore_command(python: str = sys.executable) -> str:
    """The same for a restore."""
    return f'{python} -P -m chefha_core.backup.wal fetch "%f" "%p"'


#: seconds that a full segment may wait before that is worth a word
PATIENCE = 60.0
#: what failed last and when, unless something got through since; how many segments wait, and for how long
_TROUBLE = """
select case when last_failed_time > coalesce(last_archived_time, '-infinity') then last_failed_wal end,
  (select count(*) from pg_ls_archive_statusdir() where name like '%.ready'),
  (select extract(epoch from now() - min(modification)) from pg_ls_archive_statusdir() where name like '%.ready')
from pg_stat_archiver where current_setting('archive_mode') <> 'off' and not pg_is_in_recovery()
"""


def problem(places: Places, until: float) -> str:
    """Why the log piles up on this node instead of being archived, one sentence; "" if it does not.

    PostgresError if PostgreSQL does not answer before the monotonic time ``until``.
    """
    from chefha_core.parts import postgres_sql as sql  # needs psycopg2, which the program does without

    with sql.session(sql.local_dsn(places), until) as opened:
        rows = opened.rows(_TROUBLE, until)
    failed, waiting, oldest = rows[0] if rows else ("", 0, 0)
    if not failed and float(oldest or 0) < PATIENCE:
        return ""
    return (
        f"the log is not archived{f': {failed} failed' if failed else ''}; {waiting} segments wait, the first for "
        f"{float(oldest or 0):.0f} s, and fill the disk of the database: see journalctl -u chefha-postgresql"
    )


def push(store: Store, segment: Path, compression: str = "zstd") -> str:
    """Put a segment (or history file) of the present data directory into the store; its name there.

    ArchiveError if it does not get there, or if another content is there under its name.
    """
    name = place(segment.name)
    if store.has(name):
        if not _same(store, name, segment):
            raise ArchiveError(f"{store.where(name)} is there already, with another content than {segment}")
        return name
    partial = name + PARTIAL
    store.remove(partial)  # of an attempt that was cut short
    with segment.open("rb") as source, store.receive(partial, segment.stat().st_size) as output:
        packer = compressor(compression, output)
        assert packer.stdin is not None
        try:
            with packer.stdin as sink:
                shutil.copyfileobj(source, sink, CHUNK)
        except BrokenPipeError:
            pass  # it says why
        if problem := ended(packer):
            raise ArchiveError(f"{store.where(partial)} cannot be written: {problem}")
    store.rename(partial, name)
    return name


def fetch(store: Store, name: str, target: Path) -> bool:
    """Bring a segment back to ``target``; False if the store does not have it, ArchiveError if it cannot be read."""
    found = place(name)
    if not store.has(found):
        return False
    with store.read(found) as stream, expanded(stream, lambda done: None) as plain, target.open("wb") as sink:
        shutil.copyfileobj(plain.file, sink, CHUNK)
        if problem := plain.problem():
            raise ArchiveError(f"{store.where(found)}: {problem}")
        sink.flush()
        os.fsync(sink.fileno())
    return True


def retire(store: Store, identifier: str, start: int, size: int = SEGMENT) -> int:
    """Delete the segments before the byte ``start`` of the log, whatever their timeline; how many.

    History files stay: they are small, and tell how timelines belong together.
    """
    first, gone = segment_name(0, start // size, size)[8:], 0
    for path in store.below(f"wal/{identifier}"):
        name = path.rpartition("/")[2].partition(".")[0]
        if re.fullmatch("[0-9A-F]{24}", name) and name[8:] < first:
            store.remove(path)
            gone += 1
    return gone


def place(name: str, data: Path = Path()) -> str:
    """Where the log of the data directory ``data`` is in a store; a folder for every 256 segments at most."""
    try:
        identifier = struct.unpack("=Q", (data / "global/pg_control").read_bytes()[:8])[0]
    except (OSError, struct.error) as error:
        raise ArchiveError(f"{data.absolute()} is no data directory: {error}") from None
    folder = f"{name[:16]}/" if len(name) == 24 else ""
    return f"wal/{identifier}/{folder}{name}.z"


def _same(store: Store, name: str, segment: Path) -> bool:
    with store.read(name) as stream, expanded(stream, lambda done: None) as plain, segment.open("rb") as file:
        while True:
            ours, theirs = file.read(CHUNK), plain.file.read(CHUNK)
            if ours != theirs:
                return False
            if not ours:
                return not plain.problem()


def main(words: Sequence[str]) -> int:
    """The program."""
    try:
        store, wanted = _configured()
        if words[0] == "push":
            push(store, Path(words[1]), wanted.compression)
            return 0
        return 0 if fetch(store, words[1], Path(words[2])) else 1
    except (ArchiveError, OSError) as error:
        print(f"chefha: log archive: {error}", file=sys.stderr)
        return BROKEN if words[0] == "fetch" else 1


def _configured() -> tuple[Store, Backup]:
    path = Path(os.environ.get("CHEFHA_BACKUP_CONFIG", CONFIG))
    try:
        wanted = build(Backup, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, SettingsError) as error:
        raise ArchiveError(f"{path} cannot be read ({error}); apply this node's states") from None
    return open_store(wanted), wanted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
