"""What a data directory says when no server runs on it: pg_control and the write-ahead log itself."""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from chefha_core.model import Position, TimelineSwitch, parse_lsn
from chefha_core.parts.postgres_tools import Places, PostgresError, run

#: states of pg_control in which the directory was last written by a primary
PRIMARY_STATES = ("in production", "shutting down", "shut down", "in crash recovery")
#: enum DBState
_STATES = (
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
)
_SHORT_HEADER, _LONG_HEADER, _RECORD_HEADER = 24, 40, 24
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_LABELS = {
    "Database system identifier": "system_id",
    "Database cluster state": "state",
    "Latest checkpoint location": "checkpoint",
    "Latest checkpoint's REDO location": "redo",
    "Latest checkpoint's TimeLineID": "timeline",
    "Bytes per WAL segment": "segment",
    "WAL block size": "page",
}


@dataclass(frozen=True)
class Control:
    """The part of pg_control that matters here; LSNs and sizes in bytes."""

    system_id: str
    state: str
    checkpoint: int
    redo: int
    timeline: int
    segment: int
    page: int

    @property
    def was_primary(self) -> bool:
        return self.state in PRIMARY_STATES


def read(places: Places, timeout: float) -> Control:
    """pg_control through pg_controldata, which checks it; PostgresError if it cannot be read in ``timeout`` seconds."""
    found: dict[str, str] = {}
    for line in run(places, ["pg_controldata", "-D", str(places.data)], timeout):
        label, _, text = line.partition(":")
        if label in _LABELS:
            found[_LABELS[label]] = text.strip()
    try:
        return Control(
            found["system_id"],
            found["state"],
            parse_lsn(found["checkpoint"]),
            parse_lsn(found["redo"]),
            int(found["timeline"]),
            int(found["segment"]),
            int(found["page"]),
        )
    except (KeyError, ValueError) as error:
        raise PostgresError(
            f"pg_controldata says nothing usable of {places.data} ({error}); is it of this version?"
        ) from None


def system_id(data: Path) -> str:
    """System identifier of a data directory, by the first bytes of its pg_control; "" if there is none."""
    try:
        raw = (data / "global" / "pg_control").read_bytes()[:8]
    except OSError:
        return ""
    return str(int.from_bytes(raw, sys.byteorder)) if len(raw) == 8 else ""


def refreshed(known: Control, data: Path) -> Control | None:
    """pg_control of the same cluster, read anew from its first 52 bytes; None if they are not what is expected.

    They have meant the same in all versions since 11: system identifier, two version numbers, state, time, latest
    checkpoint, its redo point, its timeline (struct ControlFileData, PostgreSQL's src/include/catalog/pg_control.h).
    """
    raw = (data / "global" / "pg_control").read_bytes()[:52]
    if len(raw) < 52:
        return None
    system_id, version, _, state, _, checkpoint, redo, timeline = struct.unpack("=QIIIxxxxqQQI", raw)
    if str(system_id) != known.system_id or not 1100 <= version < 1900 or state >= len(_STATES):
        return None
    return replace(known, state=_STATES[state], checkpoint=checkpoint, redo=redo, timeline=timeline)


def never_ran(data: Path) -> bool:
    """True of a base backup that was not started yet: pg_control is still that of the server it was taken from.

    PostgreSQL renames the label when it begins to recover. A label by ``pg_start_backup`` or ``pg_rewind`` in its
    place says so (xlog.c, do_pg_start_backup; pg_rewind.c, createBackupLabel).
    """
    try:
        return "BACKUP METHOD: streamed" in (data / "backup_label").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def clean_end(places: Places, control: Control) -> Position | None:
    """Where the log of a cleanly stopped primary ends: after its shutdown checkpoint. None for any other directory.

    The end, not the checkpoint's own place: a follower that received everything has a history in which this timeline
    ends exactly there, one that misses the last record has it end at the checkpoint's place, and must not pass for it.
    """
    if control.state != "shut down":
        return None
    end = record_end(places.data / "pg_wal", control.timeline, control.checkpoint, control)
    return Position(control.timeline, end) if end is not None else None


def record_end(wal: Path, timeline: int, lsn: int, sizes: Control) -> int | None:
    """The end (aligned, as PostgreSQL counts it) of the log record at ``lsn``; None if there is none to be read."""
    at = lsn + (_header(lsn, sizes) if lsn % sizes.page == 0 else 0)
    try:
        with (wal / segment_name(timeline, at, sizes.segment)).open("rb") as file:
            file.seek(at % sizes.segment)
            left = int.from_bytes(file.read(4), "little")
    except OSError:
        return None
    if left < _RECORD_HEADER:
        return None
    while left > (room := sizes.page - at % sizes.page):
        left -= room
        at += room
        at += _header(at, sizes)
    return at + (left + 7) // 8 * 8


def _header(lsn: int, sizes: Control) -> int:
    return _LONG_HEADER if lsn % sizes.segment == 0 else _SHORT_HEADER


def whole_record_waits(wal: Path, replayed: int, received: int, sizes: Control) -> bool:
    """True if a complete record is there behind what was replayed.

    A receiver that was cut usually leaves the beginning of a record, which will never be replayed: "received more
    than replayed" would wait for ever.
    """
    number = segment_name(0, replayed, sizes.segment)[8:]
    timelines = [int(path.name[:8], 16) for path in wal.glob(f"????????{number}")]
    end = record_end(wal, max(timelines), replayed, sizes) if timelines else None
    return end is not None and end <= received


def segment_name(timeline: int, lsn: int, segment: int) -> str:
    """Name of the file with the byte at ``lsn``."""
    number, per_id = lsn // segment, 0x100000000 // segment
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


def newest_log(wal: Path, segment: int) -> int:
    """End of the segment that was written last, an upper bound of the log's end; 0 if there is none."""
    newest, end = 0, 0
    for path in wal.iterdir():
        if _SEGMENT.fullmatch(path.name):
            # recycled segments have higher names, but keep the time at which they were written
            written = path.stat().st_mtime_ns
            if written > newest:
                log, number = int(path.name[8:16], 16), int(path.name[16:], 16)
                newest, end = written, (log * (0x100000000 // segment) + number + 1) * segment
    return end


def not_an_ancestor(position: Position, history: tuple[TimelineSwitch, ...]) -> str:
    """Why a log that ends at ``position`` is no ancestor of one with ``history`` (not empty); "" if it is."""
    for switch in history:
        if switch.timeline == position.timeline:
            return f"goes on to {position} where the other ended" if position.lsn > switch.lsn else ""
    return f"is on timeline {position.timeline}, which the other never was on"
