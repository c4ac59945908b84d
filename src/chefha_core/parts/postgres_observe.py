"""One look at the local PostgreSQL: everything policy wants to know, within a deadline that holds.

Each look opens a fresh connection, for only that shows whether the postmaster still serves: an old one goes on
working while the postmaster is frozen.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from chefha_core.model import PgFacts, PgState, Position, TimelineSwitch, parse_lsn
from chefha_core.parts import postgres_control as control_file
from chefha_core.parts import postgres_sql as sql
from chefha_core.parts import postmaster
from chefha_core.parts.postgres_control import Control
from chefha_core.parts.postgres_roles import slot_names, sync_names, upstream
from chefha_core.parts.postgres_tools import Places, PostgresError
from chefha_core.settings import Settings

#: the startup process waits for log that is not there: everything local was replayed
_IDLE = ("RecoveryRetrieveRetryInterval", "RecoveryWalStream", "RecoveryWalAll")
#: seconds that asking the upstream for its history may take
HISTORY = 0.6
#: within ``problem`` of a node whose upstream cannot serve it any more
LOG_GONE = "does not have the log after"
#: what PostgreSQL says when clients fill every place
_FULL = ("too many clients", "remaining connection slots")


@dataclass(frozen=True)
class Look:
    """``late``: the deadline passed without an answer, so ``facts`` only hold what files and processes say."""

    facts: PgFacts
    late: bool = False


class Observer:
    """Looks at one PostgreSQL; safe to be used by several threads."""

    def __init__(self, places: Places, settings: Settings, name: str) -> None:
        self._places, self._settings, self._name = places, settings, name
        self._members = slot_names(settings.members)
        self._lock = threading.Lock()
        #: the postmaster's process id and an open session; whoever uses it takes it away meanwhile
        self._kept: tuple[int, sql.Session] | None = None
        self._control: Control | None = None

    def look(self, until: float, history_from: str = "") -> Look:
        """Facts gathered before the monotonic time ``until``; whatever fails is said in their ``problem``."""
        if not (self._places.data / "PG_VERSION").exists():
            return Look(PgFacts())
        found = self._look(until)
        facts = found.facts
        if history_from and not facts.streaming and facts.state in (PgState.STOPPED, PgState.STANDBY):
            # only now: the upstream's last row must not be older than the own position
            history, problem = self.history(history_from, facts.position, min(until, time.monotonic() + HISTORY))
            gone = LOG_GONE in problem
            facts = replace(facts, upstream_history=history, log_gone=gone, problem=facts.problem or problem)
        return replace(found, facts=replace(facts, damaged=self._places.rewinding.exists()))

    def _look(self, until: float) -> Look:
        for _ in range(2):
            alive = postmaster.find(self._places.data)
            if alive is None:
                break
            if alive.status in ("starting", "stopping"):
                return Look(self._silent(until, f"PostgreSQL is {alive.status}"))
            with postmaster.watched(alive.pid, self._places.data) as watch:
                try:
                    return Look(self._running(until, watch, alive.pid))
                except sql.NoAnswer as error:
                    return Look(self._silent(until + 0.2, str(error)), late=True)
                except PostgresError as error:
                    problem = str(error)
            if postmaster.find(self._places.data) is not None:
                return Look(self._silent(until, problem))
        return Look(self._stopped(until))

    # ---- no server

    def _stopped(self, until: float) -> PgFacts:
        try:
            control = self.control(until)
        except PostgresError as error:
            return PgFacts(state=PgState.STOPPED, problem=str(error))
        position = control_file.clean_end(self._places, control)
        return PgFacts(
            state=PgState.STOPPED,
            system_id=control.system_id,
            position=position,
            was_primary=control.was_primary and not control_file.never_ran(self._places.data),
            clean=position is not None,
            checkpoint_timeline=control.timeline,
            redo_bytes=self._redo(control),
        )

    def _redo(self, control: Control) -> int:
        if control.state in ("shut down", "shut down in recovery"):
            return 0
        try:
            end = control_file.newest_log(self._places.data / "pg_wal", control.segment)
        except OSError:
            return 0
        return max(0, end - control.redo)

    def control(self, until: float) -> Control:
        """pg_control: once through pg_controldata, which checks it, then by its first bytes, which needs no program."""
        kept = self._control
        with contextlib.suppress(OSError):
            if kept is not None and (now := control_file.refreshed(kept, self._places.data)) is not None:
                return now
        self._control = control_file.read(self._places, max(0.1, until - time.monotonic()))
        return self._control

    # ---- a server that does not answer

    def _silent(self, until: float, problem: str) -> PgFacts:
        """A postmaster without an answer. It cannot be a primary as long as standby.signal is there."""
        try:
            control = self.control(until)
        except PostgresError as error:
            return PgFacts(state=PgState.STARTING, problem=str(error))
        return PgFacts(
            state=PgState.STARTING,
            system_id=control.system_id,
            upstream=self._wished_upstream(),
            was_primary=control.was_primary and not self._places.standby_signal.exists(),
            checkpoint_timeline=control.timeline,
            redo_bytes=self._redo(control),
            problem=problem,
        )

    def _wished_upstream(self) -> str:
        """Where role.conf points to, as long as the server cannot be asked."""
        with contextlib.suppress(OSError):
            for line in self._places.role_conf.read_text(encoding="utf-8").splitlines():
                if line.startswith("primary_conninfo"):
                    return upstream(line)
        return ""

    # ---- a server that answers

    def _running(self, until: float, watch: int | None, pid: int) -> PgFacts:
        answer = self._ask(until, watch, pid)
        if self._control is None:  # so that the postmaster's death can be told without running a program first
            with contextlib.suppress(PostgresError):
                self.control(until)
        facts = self._common(answer)
        if answer["recovery"]:
            return self._standby(facts, answer, until, watch)
        position = Position(int(answer["file"][:8], 16), parse_lsn(answer["written"]))
        return replace(facts, state=PgState.PRIMARY, position=position, was_primary=True)

    def _ask(self, until: float, watch: int | None, pid: int) -> dict[str, Any]:
        """A fresh connection shows that the postmaster serves, the one kept since an earlier look answers faster."""
        with self._lock:
            kept, self._kept = self._kept, None
        fresh: sql.Session | None = None
        try:
            try:
                fresh = sql.Session(sql.local_dsn(self._places), until, watch)
            except sql.Refused as error:  # clients fill every place: that is no reason to see nothing
                if kept is None or not any(words in str(error) for words in _FULL):
                    raise
            if kept is not None and kept[0] == pid:
                try:
                    answer = sql.ask(kept[1], until)
                    self._keep(pid, kept[1])
                    kept = None
                    return answer
                except sql.Refused:
                    if fresh is None:
                        raise
            assert fresh is not None
            answer = sql.ask(fresh, until)
            self._keep(pid, fresh)
            fresh = None
            return answer
        finally:
            for session in (fresh, kept[1] if kept else None):
                if session is not None:
                    session.close()

    def _keep(self, pid: int, session: sql.Session) -> None:
        with self._lock:
            former, self._kept = self._kept, (pid, session)
        if former is not None:
            former[1].close()

    def _common(self, answer: dict[str, Any]) -> PgFacts:
        slots = answer["slots"] or {}
        end = parse_lsn(answer["written"] or answer["replayed"] or "0/0")
        return PgFacts(
            system_id=answer["system_id"],
            upstream=upstream(answer["upstream"]),
            by_slot=bool(answer["slot"] or not answer["upstream"]),
            receiver=answer["receiver"],
            checkpoint_timeline=answer["control"]["timeline_id"],
            redo_bytes=max(0, end - parse_lsn(answer["control"]["redo_lsn"])),
            sync_names=sync_names(answer["sync"]),
            slots={self._member(slot): active for slot, active in slots.items() if slot.startswith("chefha_")},
            standbys=tuple(sorted({name for name in answer["standbys"] or () if name in self._settings.members})),
        )

    def _member(self, slot: str) -> str:
        """Whose slot this is; a former member's keeps its own name, so that it is seen and dropped."""
        return self._members.get(slot, slot)

    def _standby(self, facts: PgFacts, answer: dict[str, Any], until: float, watch: int | None) -> PgFacts:
        stream = answer["stream"] or {}
        streaming = stream.get("status") == "streaming"
        replayed = parse_lsn(answer["replayed"] or "0/0")
        received = parse_lsn(answer["received"]) if answer["received"] else 0
        flushed = parse_lsn(stream["flushed_lsn"]) if streaming and stream["flushed_lsn"] else 0
        facts = replace(facts, state=PgState.STANDBY, streaming=streaming)
        if streaming and flushed >= replayed:
            position = Position(stream["received_tli"], flushed)
            return replace(facts, position=position, replaying=received > replayed)
        timeline, held = sql.identify(sql.local_dsn(self._places, replication=True), until, watch)
        replaying = self._replaying(answer, replayed, received)
        # What is left after the replay is the beginning of a record: nobody has acknowledged it, it is not held.
        return replace(
            facts, position=Position(timeline, held if replaying or streaming else replayed), replaying=replaying
        )

    def _replaying(self, answer: dict[str, Any], replayed: int, received: int) -> bool:
        if not received:  # never streamed since it started: local log may be left
            return answer["startup"] not in _IDLE
        if received <= replayed:
            return False
        wal, sizes = self._places.data / "pg_wal", answer["wal"]
        control = Control("", "", 0, 0, 0, sizes["bytes_per_wal_segment"], sizes["wal_block_size"])
        return control_file.whole_record_waits(wal, replayed, received, control)

    # ---- the upstream's history

    def history(self, address: str, position: Position | None, until: float) -> tuple[tuple[TimelineSwitch, ...], str]:
        """See ``Postgres.history``."""
        pg, application = self._settings.postgresql, f"{self._name}-history"
        streaming = sql.remote_dsn(self._places, pg.replication_user, address, application) + " replication=true"
        try:
            rows = sql.history(streaming, until)
        except PostgresError as error:
            return (), f"the timeline history of {address} cannot be read: {error}"
        if position is None or rows[-1].lsn <= position.lsn or control_file.not_an_ancestor(position, rows):
            return rows, ""
        reading = sql.remote_dsn(self._places, pg.rewind_user, address, application, "postgres")
        return rows, self._gone(reading, address, position, until)

    def _gone(self, dsn: str, address: str, position: Position, until: float) -> str:
        """Why the log after ``position`` cannot come from ``address``; "" if it can, or if that cannot be found out."""
        ask = (
            "select count(*) from pg_ls_dir('pg_wal', true, false) f, "
            "(select pg_size_bytes(current_setting('wal_segment_size')) as size) s "
            "where f ~ '^[0-9A-F]{24}$' and substr(f, 9) = lpad(upper(to_hex(%s / 4294967296)), 8, '0') || "
            "lpad(upper(to_hex(%s %% 4294967296 / size)), 8, '0')"
        )
        try:
            with sql.session(dsn, until) as remote:
                [(files,)] = remote.rows(ask, until, position.lsn, position.lsn)
        except PostgresError:
            return ""
        if files:
            return ""
        return f"{address} {LOG_GONE} {position}: only a fresh base backup helps"
