"""Making data directories: initdb, pg_rewind, base backup. Nothing is deleted before its replacement is verified.

A directory in the making has another name until it is complete, so whatever is under the right name can be trusted.
An attempt that was killed leaves such a directory, which the next attempt removes first.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chefha_core.parts import postgres_control as control_file
from chefha_core.parts import postgres_sql as sql
from chefha_core.parts import postmaster
from chefha_core.parts.postgres_roles import role_statements
from chefha_core.parts.postgres_tools import Places, PostgresError, exclusive, run, sync_directory
from chefha_core.settings import Settings

#: bytes that must be free beside a clone: log that streams in meanwhile
SPARE = 256 << 20
_DONE = re.compile(r"(\d+)/(\d+) kB")


def initdb(places: Places, settings: Settings) -> None:
    """A new cluster with checksums and chefha's roles, complete or not at all.

    PostgresError where any trace of an earlier data directory is, or if a program fails.
    """
    for path in (places.data, places.old):
        if path.exists() and any(path.iterdir()):
            raise PostgresError(f"{path} is not empty: no new database is made there; move it away if it is not needed")
    with exclusive(places) as lock:
        _clear_fresh(places)
        options = ["--username=postgres", "--data-checksums", "--encoding=UTF8", "--locale=C.UTF-8"]
        logins = ["--auth-local=peer", "--auth-host=scram-sha-256"]
        run(places, ["initdb", "-D", str(places.fresh), *options, *logins], 120.0, keep=(lock,))
        # In single-user mode: no server listens and no permit is needed while there are no passwords yet.
        single = ["postgres", "--single", "-D", str(places.fresh), "-c", "exit_on_error=on", "postgres"]
        run(places, single, 60.0, keep=(lock,), stdin="\n".join(role_statements(settings)) + "\n")
        with _explained(places):
            places.fresh.rename(places.data)
            sync_directory(places.home)


def rewind(places: Places, settings: Settings, name: str, source: str, timeout: float) -> None:
    """Take the data directory back to where its log left that of ``source`` (an address), with pg_rewind.

    PostgresError if that is impossible; ``places.rewinding`` then remains if the directory was changed already.
    """
    if control_file.never_ran(places.data):
        # Recovered alone, it would go on where the backup ends, on the timeline of the server it was taken from.
        raise PostgresError(f"{places.data} is a base backup that never ran: start it as a standby, or clone it")
    with _explained(places):
        postmaster.remove_stale_files(
            places.data, places.socket
        )  # or the recovery that pg_rewind runs stumbles on them
    dsn = sql.remote_dsn(places, settings.postgresql.rewind_user, source, f"{name}-rewind", "postgres")
    changed = places.rewinding.exists()

    def note(line: str) -> None:
        nonlocal changed
        changed = changed or "need to copy" in line

    with exclusive(places) as lock:
        places.write(places.rewinding, "pg_rewind is changing the data directory\n")
        # pg_rewind lets a crashed server recover in single-user mode, which refuses to be a standby.
        places.standby_signal.unlink(missing_ok=True)
        argv = ["pg_rewind", "-D", str(places.data), f"--source-server={dsn}", "--progress"]
        try:
            run(places, argv, timeout, note, keep=(lock,))
            changed = False
        finally:
            places.write(places.standby_signal, "")
            if not changed:
                places.rewinding.unlink(missing_ok=True)


def clone(
    places: Places,
    settings: Settings,
    name: str,
    source: str,
    timeout: float,
    progress: Callable[[int, int], None] | None = None,
    slot: str = "",
) -> None:
    """A verified base backup of ``source`` (an address) in the place of the data directory.

    The replaced directory becomes ``places.old``. ``progress`` gets bytes done and in all. PostgresError if there is
    no room, a program fails, or ``timeout`` seconds pass; the present data directory is then as it was.
    """
    until = time.monotonic() + timeout
    with exclusive(places) as lock:
        _clear_fresh(places)
        _check_room(places, settings, name, source)
        dsn = sql.remote_dsn(places, settings.postgresql.replication_user, source, f"{name}-clone")
        argv = ["pg_basebackup", "-D", str(places.fresh), "-d", dsn, "-X", "stream", "-c", "fast", "-P", "-w"]
        run(places, argv + (["-S", slot] if slot else []), timeout, _reporter(progress), (lock,))
        run(places, ["pg_verifybackup", "-q", str(places.fresh)], max(60.0, until - time.monotonic()), keep=(lock,))
        places.write(places.fresh / "standby.signal", "")
        _swap(places)


def _reporter(progress: Callable[[int, int], None] | None) -> Callable[[str], None]:
    def report(line: str) -> None:
        if progress and (found := _DONE.search(line)):
            progress(int(found.group(1)) << 10, int(found.group(2)) << 10)

    return report


def _check_room(places: Places, settings: Settings, name: str, source: str) -> None:
    dsn = sql.remote_dsn(places, settings.postgresql.rewind_user, source, f"{name}-clone", "postgres")
    until = time.monotonic() + 15.0
    try:
        with sql.session(dsn, until) as opened:
            size = int(opened.rows("select sum(pg_database_size(oid)) from pg_database", until)[0][0])
    except PostgresError as error:
        raise PostgresError(f"{source} cannot be asked for a base backup: {error}") from None
    free = os.statvfs(places.home)
    room = free.f_bavail * free.f_frsize
    if room < size + SPARE:
        raise PostgresError(
            f"no room in {places.home} for a base backup of {source}: {(size + SPARE) >> 20} MiB needed beside the "
            f"present data, {room >> 20} MiB free; make room, or move {places.data} away by hand"
        )


def _swap(places: Places) -> None:
    """Put the verified backup in place. An older ``.old`` stays: only it can hold what no other node has."""
    if pids := postmaster.processes(places.data):
        raise PostgresError(f"{places.data} cannot be replaced: process {pids[0]} still uses it; stop PostgreSQL first")
    discard = places.home / f"{places.data.name}.discard"
    with _explained(places):
        if places.data.exists():
            places.data.rename(discard if places.old.exists() else places.old)
        places.fresh.rename(places.data)
        places.rewinding.unlink(missing_ok=True)
        sync_directory(places.home)
        shutil.rmtree(discard, ignore_errors=True)


def _clear_fresh(places: Places) -> None:
    """Remove what a killed attempt left, and undo the half of a swap."""
    with _explained(places):
        if places.fresh.exists():
            shutil.rmtree(places.fresh)
        discard = places.home / f"{places.data.name}.discard"
        for former in (discard, places.old):
            if former.exists() and not places.data.exists():
                former.rename(places.data)
        if discard.exists():
            shutil.rmtree(discard)


def swap_in(places: Places, system_id: str) -> None:
    """Put the restored data in the place of the data directory, which is kept under another name.

    Two renames: killed between them, the same call goes on. PostgresError if other data waits there than what has
    this system identifier, or if a process still uses the data directory.
    """
    with exclusive(places):
        if control_file.system_id(places.restored) != system_id:
            raise PostgresError(f"{places.restored} is not the restored data with system identifier {system_id}")
        if pids := postmaster.processes(places.data):
            raise PostgresError(f"{places.data} cannot be replaced: process {pids[0]} still uses it")
        with _explained(places):
            if places.data.exists():
                places.data.rename(places.replaced(system_id))
            places.restored.rename(places.data)
            places.rewinding.unlink(missing_ok=True)
            sync_directory(places.home)


def leftovers(places: Places) -> list[Path]:
    """Data directories that a clone or a restoration replaced."""
    return [path for path in (places.old, *places.home.glob(places.replaced().name)) if path.exists()]


def forget_old(places: Places) -> None:
    """Delete the data directories that a clone or a restoration replaced; PostgresError if that fails."""
    with _explained(places):
        for path in leftovers(places) if places.data.exists() else []:
            shutil.rmtree(path)


@contextlib.contextmanager
def _explained(places: Places) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PostgresError(
            f"directories beside {places.data} cannot be changed: {error}; that folder must be a plain one "
            "(mount a file system on its parent)"
        ) from None


def reserve_timelines(places: Places, timeline: int) -> None:
    """Make PostgreSQL promote to exactly ``timeline``.

    It takes the first one without a history file, so every earlier one gets a file: only a comment, which makes that
    timeline nobody's child, so no standby follows it. Followers fetch all these files in turn, and a gap among them
    would stop them for good. PostgresError if ``timeline`` is taken.
    """
    wal = places.data / "pg_wal"
    if (wal / f"{timeline:08X}.history").exists():
        raise PostgresError(f"timeline {timeline} was used before on {places.data}; choose a higher one")
    missing = [n for n in range(2, timeline) if not (wal / f"{n:08X}.history").exists()]
    for number in missing:
        text = f"# timeline {number} was skipped by chefha: nobody wrote on it\n"
        places.write(wal / f"{number:08X}.history", text, durable=False)
    if missing:
        sync_directory(wal)  # names are enough: an empty file, should the machine crash now, means the same
