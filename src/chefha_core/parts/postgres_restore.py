"""A restored data directory is made ready beside the present one: replayed in a server of its own that nobody reaches,
promoted on a timeline of its own, stopped cleanly, and given a system identifier of its own.

The identifier is what keeps old and restored data apart: PostgreSQL refuses to stream, and pg_rewind to rewind, between
two of them, whatever their logs have in common. It is changed as pg_createsubscriber (PostgreSQL 17) does it: in
pg_control, then pg_resetwal begins a new log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chefha_core.parts import postgres_control as control_file
from chefha_core.parts import postgres_roles as roles
from chefha_core.parts import postgres_sql as sql
from chefha_core.parts import postmaster
from chefha_core.parts.postgres_clone import reserve_timelines
from chefha_core.parts.postgres_tools import Places, PostgresError, run, spawn, sync_directory
from chefha_core.settings import Settings

TICK = 0.1
#: the polynomial of CRC-32C, reflected (PostgreSQL's src/port/pg_crc32c_sb8.c)
_CASTAGNOLI = 0x82F63B78
_LAST = re.compile(r"last completed transaction was at log time (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Target:
    """Where the replay ends; by default as soon as the data is consistent."""

    #: a time as PostgreSQL reads it, with its zone
    time: str = ""
    #: brings archived log: PostgreSQL's restore_command
    command: str = "/bin/false"
    #: the timeline whose log is replayed, 0: that of the backup
    timeline: int = 0


def make_ready(
    places: Places, settings: Settings, data: Path, timeline: int, target: Target, timeout: float,
    on_replay: Callable[[], None] = lambda: None,
) -> str:  # fmt: skip
    """Make the extracted base backup ``data`` a cleanly stopped directory on ``timeline``; its new system identifier.

    ``on_replay`` is called now and then. PostgresError if it does not verify, cannot be replayed to the target, or
    ``timeout`` seconds pass; ``data`` is of no use then.
    """
    until = time.monotonic() + timeout
    with private(places, data) as own:
        run(own, ["pg_verifybackup", "-q", str(data)], timeout)
        _prepare(own, timeline)
        _replay(own, target, until, on_replay)
        system_id = new_identity(own, max(10.0, until - time.monotonic()))
        _first_start(own, settings, until)
        control = control_file.read(own, 10.0)
    if (control.system_id, control.state, control.timeline) != (system_id, "shut down", timeline):
        raise PostgresError(f"{data} is not what it should be after its recovery: {control}")
    for leftover in ("backup_label.old", "tablespace_map.old", "postmaster.opts"):
        (data / leftover).unlink(missing_ok=True)
    sync_directory(data)
    return system_id


@contextlib.contextmanager
def private(places: Places, data: Path) -> Iterator[Places]:
    """Places of a server on ``data`` whose socket is in a folder that only PostgreSQL's user and root enter."""
    with tempfile.TemporaryDirectory(prefix="chefha-restore-") as sockets:  # a socket's path has 107 characters at most
        if os.geteuid() == 0:
            shutil.chown(sockets, places.user, places.user)
        yield dataclasses.replace(places, data=data, sockets=Path(sockets))


def _prepare(own: Places, timeline: int) -> None:
    """No follower any more: an end of recovery makes it a primary on ``timeline``."""
    own.standby_signal.unlink(missing_ok=True)
    auto = own.data / "postgresql.auto.conf"
    if auto.exists():
        own.write(auto, roles.without_role_parameters(auto.read_text(encoding="utf-8")))
    own.write(own.data / "recovery.signal", "")
    reserve_timelines(own, timeline)


def _replay(own: Places, target: Target, until: float, on_replay: Callable[[], None]) -> None:
    """Until the end of recovery, which makes it a primary."""
    with _server(own, target, until, on_replay):
        pass


def _first_start(own: Places, settings: Settings, until: float) -> None:
    """Started once on its new log, which says ``wal_level`` minimal until then: no standby could begin there. Its
    roles get their present passwords, or no follower could clone it.
    """
    with _server(own, None, until, lambda: None), sql.session(sql.local_dsn(own), until) as local:
        wrong = roles.outdated(settings, [(a, b, c) for a, b, c in local.rows(roles.STORED, until)])
        for statement in roles.quietly([line for login in wrong for line in login.statements()]):
            local.rows(statement, until)


@contextlib.contextmanager
def _server(own: Places, target: Target | None, until: float, on_wait: Callable[[], None]) -> Iterator[None]:
    """A server that answers as a primary while the block lasts, and is stopped cleanly at its end."""
    log = own.home / "postgresql.log"
    with log.open("ab") as output:
        server = spawn(own, ["postgres", "-D", str(own.data), *_options(own, target)], output.fileno())
    try:
        _await_primary(own, server, log, target, until, on_wait)
        yield
        server.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(max(1.0, until - time.monotonic()))
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGQUIT)
            postmaster.kill_all(own.data, time.monotonic() + 10.0)
            server.wait(10.0)


def _options(own: Places, target: Target | None) -> list[str]:
    """The cluster's own configuration, but for what a server needs that nobody shall reach or follow."""
    options = {
        "config_file": str(own.config),
        "listen_addresses": "",
        "unix_socket_directories": str(own.sockets),
        "synchronous_standby_names": "",
        "primary_conninfo": "",
        "primary_slot_name": "",
        "hot_standby": "off",  # it is asked only when it is a primary, whatever its max_connections were
        "archive_mode": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
    }
    if target is not None:
        options |= {
            "restore_command": target.command,
            "recovery_target_timeline": str(target.timeline) if target.timeline else "current",
            "recovery_target_action": "promote",
            **({"recovery_target_time": target.time} if target.time else {"recovery_target": "immediate"}),
        }
    return [word for name, value in options.items() for word in ("-c", f"{name}={value}")]


def _await_primary(
    own: Places,
    server: subprocess.Popen[bytes],
    log: Path,
    target: Target | None,
    until: float,
    on_wait: Callable[[], None],
) -> None:
    while True:
        if server.poll() is not None:
            raise PostgresError(_why_ended(log.read_text(encoding="utf-8", errors="replace"), target))
        alive = postmaster.find(own.data)
        if alive is not None and alive.status == "ready":
            return
        if time.monotonic() >= until:
            raise PostgresError("the log of the restored data was not replayed in time; give a longer --timeout")
        on_wait()
        time.sleep(TICK)


def _why_ended(log: str, target: Target | None) -> str:
    """Why the server on the restored data ended, in words."""
    if target and "recovery ended before configured recovery target was reached" in log:
        last = _LAST.findall(log)
        return (
            f"{target.time} is after the archived log ends, with a transaction of {last[-1] if last else 'before it'}"
        )
    if target and "requested recovery stop point is before consistent recovery point" in log:
        return f"{target.time} is before the end of the base backup in this archive; take an older archive"
    words = [line.strip() for line in log.splitlines() if "FATAL" in line or "PANIC" in line]
    return f"the restored data does not start: {'; '.join(words[-2:] or log.splitlines()[-2:])}"


# ---- system identifier


def new_identity(own: Places, timeout: float) -> str:
    """Give a cleanly stopped directory a system identifier that no other has, and a new log; the identifier."""
    path = own.data / "global" / "pg_control"
    raw = bytearray(path.read_bytes())
    end = _end_of_control(raw)
    now = time.time()
    # as initdb makes it: seconds, microseconds, process (PostgreSQL's BootStrapXLOG)
    number = int(now) << 32 | int(now % 1 * 1e6) << 12 | os.getpid() & 0xFFF
    raw[:8] = number.to_bytes(8, sys.byteorder)
    raw[end : end + 4] = crc32c(raw[:end]).to_bytes(4, sys.byteorder)
    with path.open("r+b") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    run(own, ["pg_resetwal", "-D", str(own.data)], timeout)
    return str(number)


def _end_of_control(raw: bytes | bytearray) -> int:
    """Where the checksum of pg_control lies, which is its last field and different in each version."""
    crc = 0xFFFFFFFF
    for end in range(len(raw) - 4):
        if end % 4 == 0 and end > 64 and int.from_bytes(raw[end : end + 4], sys.byteorder) == crc ^ 0xFFFFFFFF:
            return end
        crc = _step(crc, raw[end])
    raise PostgresError("pg_control of the restored data has no valid checksum")


def crc32c(data: bytes | bytearray) -> int:
    """CRC-32C (Castagnoli) of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _step(crc, byte)
    return crc ^ 0xFFFFFFFF


def _step(crc: int, byte: int) -> int:
    crc ^= byte
    for _ in range(8):
        crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
    return crc
