"""What a backup is taken from: this node's PostgreSQL, over its socket, and the programs that read it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chefha_core.backup.compression import widen
from chefha_core.backup.errors import ArchiveError
from chefha_core.model import format_lsn
from chefha_core.parts import postgres_sql as sql
from chefha_core.parts.postgres_roles import upstream
from chefha_core.parts.postgres_tools import Places, PostgresError, spawn
from chefha_core.settings import Settings

#: seconds for one question
PATIENCE = 10.0
#: seconds in which a follower must have what its leader holds when a backup is asked for
CATCH_UP = 60.0
#: what keeps the log of a backup while it is taken; not chefha_…, which leaderl sees to
SLOT = "backup_{pid}"
_FACTS = """
select pg_is_in_recovery(), current_setting('server_version_num')::int,
  (select system_identifier::text from pg_control_system()),
  (select sum(pg_database_size(oid)) from pg_database)::bigint,
  (select string_agg(spcname, ', ') from pg_tablespace where spcname not in ('pg_default', 'pg_global')),
  coalesce(current_setting('summarize_wal', true), 'off')
"""


@dataclass(frozen=True)
class Facts:
    """What PostgreSQL on this node says of itself. ``size``: bytes of all databases."""

    leads: bool
    version: int
    system_identifier: str
    size: int
    tablespaces: str
    summarizes: bool


def ask(places: Places) -> Facts:
    """ArchiveError if PostgreSQL does not answer."""
    until = time.monotonic() + PATIENCE
    try:
        with sql.session(sql.local_dsn(places), until) as opened:
            standby, version, system, size, others, summarizes = opened.rows(_FACTS, until)[0]
    except PostgresError as error:
        raise ArchiveError(f"PostgreSQL on this node does not answer ({error}); see chef-backend-ctl status") from None
    return Facts(not standby, version, system, int(size), others or "", summarizes == "on")


def catch_up(places: Places, settings: Settings, node: str, seconds: float = CATCH_UP) -> bool:
    """Wait until this follower has replayed all that its leader holds now, so that no acknowledged row is missing.

    False if there is no leader that could be asked. ArchiveError if it stays behind.
    """
    until = time.monotonic() + seconds
    try:
        with sql.session(sql.local_dsn(places), until) as opened:
            leader = upstream(opened.rows("select current_setting('primary_conninfo')", until)[0][0])
            if not leader:
                return False
            try:
                dsn = sql.remote_dsn(places, settings.postgresql.replication_user, leader, f"{node}-backup")
                wanted = sql.identify(dsn + " replication=true", min(until, time.monotonic() + PATIENCE))[1]
            except PostgresError:
                return False
            behind = "select pg_wal_lsn_diff(%s, pg_last_wal_replay_lsn())"
            while (left := int(opened.rows(behind, until, format_lsn(wanted))[0][0])) > 0:
                if time.monotonic() > until - 1.0:
                    raise ArchiveError(
                        f"this node is {left} bytes behind {leader}, so what was written last would be missing; see "
                        "chef-backend-ctl cluster-status"
                    )
                time.sleep(0.1)
    except PostgresError as error:
        raise ArchiveError(f"PostgreSQL on this node does not answer ({error}); see chef-backend-ctl status") from None
    return True


@contextlib.contextmanager
def log_kept(places: Places) -> Iterator[None]:
    """Meanwhile no log is recycled, up to max_slot_wal_keep_size: by a slot that ends with this session."""
    until = time.monotonic() + PATIENCE
    try:
        opened = sql.Session(sql.local_dsn(places), until)
    except PostgresError as error:
        raise ArchiveError(f"PostgreSQL on this node does not answer ({error}); see chef-backend-ctl status") from None
    try:
        name = SLOT.format(pid=os.getpid())
        opened.rows("select pg_create_physical_replication_slot(%s, true, true)", until, name)
        yield
    except PostgresError as error:
        raise ArchiveError(f"the log cannot be kept while the backup is taken: {error}") from None
    finally:
        opened.close()


class Deadline:
    """Ends the programs of a backup when its time is over, wherever they hang."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._until = seconds, time.monotonic() + seconds
        self._programs: list[subprocess.Popen[bytes]] = []
        self._timer = threading.Timer(seconds, self.end)
        self._timer.daemon = True
        self._timer.start()

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._until

    @property
    def left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def watch(self, program: subprocess.Popen[bytes]) -> None:
        """Add one, which leads a session of its own."""
        self._programs.append(program)
        if self.over:
            self.end()

    def check(self) -> None:
        """ArchiveError if the time is over."""
        if self.over:
            raise ArchiveError(f"not done within {self.seconds:g} s; give it more with --timeout")

    def end(self) -> None:
        """Kill them all."""
        for program in self._programs:
            if program.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)

    def close(self) -> None:
        """No program outlives the backup."""
        self._timer.cancel()
        self.end()


def base_backup(places: Places, max_rate: int, manifest: Path | None) -> subprocess.Popen[bytes]:
    """pg_basebackup that writes one tar stream, its manifest within; ``max_rate`` in kB/s, 0: as fast as it goes.

    SHA256, because Python has no fast CRC32C, and every processor with SHA instructions does more of it than a disk.
    """
    argv = ["pg_basebackup", "-D", "-", "-Ft", "-X", "fetch", "-c", "fast", "-w", "--manifest-checksums=SHA256"]
    argv += ["-d", sql.local_dsn(places).replace(" dbname=postgres", "").replace("=leaderl", "=backup")]
    argv += [f"--max-rate={max_rate}"] if max_rate else []
    argv += [f"--incremental={manifest}"] if manifest else []
    program = spawn(places, argv, subprocess.PIPE, errors=subprocess.PIPE)
    assert program.stdout is not None
    widen(program.stdout)
    return program
