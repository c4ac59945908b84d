"""SQL and the replication protocol with real deadlines.

A frozen postmaster's socket still accepts connections in the kernel, and libpq's own time-out counts in whole
seconds from two on. So every connection here is asynchronous, and each wait ends at a monotonic time the caller
gave, or at once when ``watch`` (a pidfd of the postmaster) says that the postmaster has died.
"""

from __future__ import annotations

import contextlib
import json
import select
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.extensions

from chefha_core.model import TimelineSwitch, parse_lsn
from chefha_core.parts.postgres_tools import Places, PostgresError

_EVENTS = {
    psycopg2.extensions.POLL_READ: select.POLLIN,
    psycopg2.extensions.POLL_WRITE: select.POLLOUT,
}


class NoAnswer(PostgresError):
    """The deadline passed without an answer: a hung or frozen postmaster, or a very slow machine."""


class Refused(PostgresError):
    """PostgreSQL, or the kernel, answered with an error; ``code`` is the SQLSTATE where there is one."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Session:
    """One connection. Every call raises NoAnswer or Refused; neither leaves it usable."""

    def __init__(self, dsn: str, until: float, watch: int | None = None) -> None:
        self._watch = watch
        try:
            self._connection = psycopg2.connect(dsn, async_=True)
        except psycopg2.Error as error:
            raise _refused(error) from None
        try:
            self._wait(until)
        except BaseException:
            self.close()
            raise

    def rows(self, sql: str, until: float, *values: object) -> list[tuple[Any, ...]]:
        """The rows of one statement that ends before the monotonic time ``until``."""
        try:
            cursor = self._connection.cursor()
            cursor.execute(sql, values or None)
            self._wait(until)
            return cursor.fetchall() if cursor.description else []
        except psycopg2.Error as error:
            raise _refused(error) from None

    def close(self) -> None:
        with contextlib.suppress(psycopg2.Error):
            self._connection.close()

    def _wait(self, until: float) -> None:
        try:
            while (state := self._connection.poll()) != psycopg2.extensions.POLL_OK:
                poll = select.poll()
                poll.register(self._connection.fileno(), _EVENTS[state])
                if self._watch is not None:
                    poll.register(self._watch, select.POLLIN)
                ready = poll.poll(max(0.0, (until - time.monotonic()) * 1000))
                if not ready:
                    raise NoAnswer("PostgreSQL accepts connections but does not answer")
                if self._watch is not None and any(fd == self._watch for fd, _ in ready):
                    raise Refused("the postmaster has died")
        except psycopg2.Error as error:
            raise _refused(error) from None


def _refused(error: psycopg2.Error) -> Refused:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return Refused(lines[0] if lines else type(error).__name__, getattr(error, "pgcode", None) or "")


@contextlib.contextmanager
def session(dsn: str, until: float, watch: int | None = None) -> Iterator[Session]:
    """A connection that is closed at the end."""
    opened = Session(dsn, until, watch)
    try:
        yield opened
    finally:
        opened.close()


def value(text: str) -> str:
    """A value as a connection string wants it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def local_dsn(places: Places, replication: bool = False) -> str:
    """As role postgres over the unix socket, which the operating system vouches for."""
    dsn = f"host={value(str(places.sockets))} port={places.port} user=postgres application_name=leaderl"
    return dsn + (" replication=true" if replication else " dbname=postgres")


def remote_dsn(places: Places, user: str, address: str, application: str, database: str = "") -> str:
    """To another member; the password stays in the file that only PostgreSQL's user and root read."""
    parts = [
        f"host={address} port={places.port} user={value(user)} passfile={value(str(places.pgpass))}",
        f"application_name={value(application)} connect_timeout=3 gssencmode=disable",
        "keepalives_idle=3 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000",
        # verify-ca, not verify-full: libpq matches IP addresses in certificates only since version 15
        f"sslmode=verify-ca sslrootcert={value(str(places.tls / 'ca.crt'))}" if places.tls else "sslmode=disable",
    ]
    return " ".join(parts + ([f"dbname={database}"] if database else []))


def identify(dsn: str, until: float, watch: int | None = None) -> tuple[int, int]:
    """Timeline and end of what the server behind a replication connection string holds.

    On a standby that is what it replayed, or received on that same timeline (walsender.c, GetStandbyFlushRecPtr).
    """
    with session(dsn, until, watch) as replication:
        return _identify(replication, until)


def _identify(replication: Session, until: float) -> tuple[int, int]:
    (_, timeline, lsn, *_rest), *_ = replication.rows("IDENTIFY_SYSTEM", until)
    return int(timeline), parse_lsn(lsn)


def history(dsn: str, until: float) -> tuple[TimelineSwitch, ...]:
    """The history of the server's timeline, ending with that timeline itself and where it stands now."""
    with session(dsn, until) as replication:
        timeline, lsn = _identify(replication, until)
        if timeline == 1:
            return (TimelineSwitch(1, lsn),)
        (_, content), *_ = replication.rows(f"TIMELINE_HISTORY {timeline}", until)
        # bytea up to version 14, text since
        text = content if isinstance(content, str) else bytes(content).decode("utf-8", "replace")
        return (*parse_history(text), TimelineSwitch(timeline, lsn))


def parse_history(content: str) -> tuple[TimelineSwitch, ...]:
    """The rows of a ``.history`` file."""
    rows = []
    for line in content.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].isdigit():
            rows.append(TimelineSwitch(int(words[0]), parse_lsn(words[1])))
    return tuple(rows)


#: everything a look needs in one answer; lsns as text
LOOK = """
select json_build_object(
  'recovery', recovery,
  'written', case when recovery then null else pg_current_wal_lsn() end,
  'file', case when recovery then null else pg_walfile_name(pg_current_wal_lsn()) end,
  'received', pg_last_wal_receive_lsn(),
  'replayed', pg_last_wal_replay_lsn(),
  'stream', (select row_to_json(w) from (select status, received_tli, flushed_lsn from pg_stat_wal_receiver) w),
  'receiver', exists (select from pg_stat_activity where backend_type = 'walreceiver'),
  'startup', (select wait_event from pg_stat_activity where backend_type = 'startup'),
  'control', (select row_to_json(c) from (select timeline_id, redo_lsn from pg_control_checkpoint()) c),
  'system_id', (select system_identifier::text from pg_control_system()),
  'wal', (select row_to_json(i) from (select bytes_per_wal_segment, wal_block_size from pg_control_init()) i),
  'upstream', current_setting('primary_conninfo'),
  'slot', current_setting('primary_slot_name'),
  'sync', current_setting('synchronous_standby_names'),
  'slots', (select json_object_agg(slot_name, active) from pg_replication_slots
    where slot_type = 'physical' and (active or wal_status is distinct from 'lost')),
  'standbys', (select json_agg(application_name) from pg_stat_replication where state = 'streaming')
) from (select pg_is_in_recovery() as recovery offset 0) now
"""


def ask(opened: Session, until: float) -> dict[str, Any]:
    """The answer to ``LOOK``."""
    answer = opened.rows(LOOK, until)[0][0]
    found: dict[str, Any] = answer if isinstance(answer, dict) else json.loads(answer)
    return found
