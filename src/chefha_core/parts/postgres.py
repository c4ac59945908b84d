"""This node's PostgreSQL: the one class through which leaderl acts on it.

No method decides anything; each does one thing within its deadline or raises ``PostgresError`` with one sentence.
Times are seconds. Methods may be called from several threads, and ``stop("immediate")`` interrupts a ``start``.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

from chefha_core.model import PgFacts, PgState, Position, TimelineSwitch
from chefha_core.parts import postgres_clone as directories
from chefha_core.parts import postgres_control as control_file
from chefha_core.parts import postgres_role_conf as role_conf
from chefha_core.parts import postgres_roles as roles
from chefha_core.parts import postgres_sql as sql
from chefha_core.parts import postmaster
from chefha_core.parts.postgres_observe import Look, Observer
from chefha_core.parts.postgres_tools import Places, PostgresError, exclusive
from chefha_core.parts.postgres_unit import ChildUnit, SystemdUnit, Unit, withdraw_permit, write_permit
from chefha_core.settings import Settings

__all__ = ["ChildUnit", "Places", "Postgres", "PostgresError", "SystemdUnit", "Unit"]

#: seconds between two questions while something is waited for
TICK = 0.01
#: seconds after which a WAL receiver that was told to end is made to
LINGER = 0.05
#: seconds without anything new after which no more is expected from whom this node catches up from
STALLED = 3.0
#: seconds that an immediate shutdown gets before everything is killed
ORDERLY = 1.0


class Postgres:
    """PostgreSQL of the member ``name``; ``places`` only differ from the usual ones in tests."""

    def __init__(self, settings: Settings, name: str, unit: Unit, places: Places | None = None) -> None:
        self.settings, self.name, self.unit = settings, name, unit
        self.places = places or Places.of(settings)
        self.observer = Observer(self.places, settings, name)
        #: why the last start or change failed; part of the facts until one succeeds
        self.problem = ""
        self._stops = 0

    # ---- looking

    def observe(self, history_from: str = "", timeout: float = 1.0) -> PgFacts:
        """One look of at most ``timeout`` seconds; never raises. A hung postmaster looks like STARTING here:
        only ``PostgresMonitor``, which remembers earlier looks, says HUNG.
        """
        return self.look(history_from, timeout).facts

    def look(self, history_from: str = "", timeout: float = 1.0) -> Look:
        """``observe``, and whether the deadline passed without an answer."""
        found = self.observer.look(time.monotonic() + timeout, history_from)
        if self.problem and not found.facts.problem:
            return replace(found, facts=replace(found.facts, problem=self.problem))
        return found

    def history(self, address: str, position: Position | None) -> tuple[tuple[TimelineSwitch, ...], str]:
        """The history of the server at ``address``, its own timeline and end last, and why it is of no use to
        a log that ends at ``position``: it cannot be read (then there are no rows), or the log in between is gone.
        """
        return self.observer.history(address, position, time.monotonic() + 1.0)

    # ---- role

    def write_pgpass(self) -> None:
        """The password by which this node follows others, in a file that only PostgreSQL's user reads."""
        text = roles.pgpass_text(self.settings).encode()
        with contextlib.suppress(OSError):
            if self.places.pgpass.read_bytes() == text:
                return
        self._write(lambda: self.places.write(self.places.pgpass, text.decode()))

    def set_role(self, upstream: str, sync_names: tuple[str, ...] = (), numsync: int = 1) -> None:
        """Stream from the address ``upstream`` ("" from nowhere); commits wait for any ``numsync`` of ``sync_names``.

        Writes role.conf and, if a server runs, makes it load it. A standby is given the names of all others where
        durability is quorum: they mean nothing before it is promoted, but then hold from the first commit on.
        """
        if (
            not sync_names
            and self.settings.durability == "quorum"
            and (upstream or self.places.standby_signal.exists())
        ):
            sync_names = tuple(sorted(set(self.settings.members) - {self.name}))
        self._set_role(upstream, sync_names, numsync)

    def _set_role(self, upstream: str, sync_names: tuple[str, ...], numsync: int, by_slot: bool = True) -> None:
        conninfo = slot = ""
        self.write_pgpass()
        if upstream:
            conninfo = sql.remote_dsn(self.places, self.settings.postgresql.replication_user, upstream, self.name)
            slot = roles.slot_name(self.name) if by_slot else ""
        role = roles.Role(conninfo, slot, sync_names, numsync)
        self._write(lambda: role_conf.write(self.places, role))
        alive = postmaster.find(self.places.data)
        if alive is None or not postmaster.send(alive.pid, signal.SIGHUP, self.places.data):
            return
        if sync_names and not upstream and alive.status in ("ready", "standby"):
            wanted = roles.sync_parameter(sync_names, numsync)
            role_conf.await_durability(self.places, self.name, wanted, time.monotonic() + 2.0)

    # ---- starting and stopping

    def start(self, primary: bool, timeout: float) -> None:
        """Start as primary or standby, or wait for the start under way, until PostgreSQL answers.

        PostgresError if it runs in the other role, ends, is stopped meanwhile, or does not answer in ``timeout``; in
        that last case it goes on starting.
        """
        until, stops = time.monotonic() + timeout, self._stops
        try:
            self._start(primary, until, stops)
            self.problem = ""
        except PostgresError as error:
            self.problem = str(error)
            raise

    def _start(self, primary: bool, until: float, stops: int) -> None:
        if postmaster.find(self.places.data) is None:
            try:
                with exclusive(self.places):
                    self._launch(primary)
                    self._await_answer(until, stops)
            finally:
                withdraw_permit(self.places.permit)
        else:
            self._await_answer(until, stops)
        facts = self.observe(timeout=2.0)
        if facts.state is not (PgState.PRIMARY if primary else PgState.STANDBY):
            raise PostgresError(
                f"PostgreSQL on {self.name} is {facts.state}, not the {'primary' if primary else 'standby'} it was "
                f"started as{': ' + facts.problem if facts.problem else ''}"
            )

    def _launch(self, primary: bool) -> None:
        if not (self.places.data / "PG_VERSION").exists():
            raise PostgresError(f"{self.places.data} is no data directory; initialise or clone it first")
        if self.places.rewinding.exists():
            raise PostgresError(f"{self.places.data} was left half rewound; clone it")
        if not postmaster.wait_gone(self.places.data, time.monotonic() + 2.0):
            raise PostgresError(f"processes of a former PostgreSQL still use {self.places.data}; stop it first")
        self._write(lambda: postmaster.remove_stale_files(self.places.data, self.places.socket))
        withdraw_permit(self.places.permit)
        if primary:
            (self.places.data / "recovery.signal").unlink(missing_ok=True)
            self.places.standby_signal.unlink(missing_ok=True)
            write_permit(self.places.permit)
        elif not self.places.standby_signal.exists():
            self._write(lambda: self.places.write(self.places.standby_signal, ""))
        self.unit.start()

    def _await_answer(self, until: float, stops: int) -> None:
        """Until it says in its pid file that it answers; asking by connections would fill its log."""
        next_check = time.monotonic() + 0.2
        while True:
            if self._stops != stops:
                # it may have appeared only after that stop had looked for it
                self._end("immediate", time.monotonic() + 5.0)
                raise PostgresError(f"PostgreSQL on {self.name} was stopped while it started")
            alive = postmaster.find(self.places.data)
            if alive is not None and alive.status in ("ready", "standby"):
                return
            if alive is None and time.monotonic() > next_check:
                if self.unit.failed() and postmaster.find(self.places.data) is None:
                    raise PostgresError(f"PostgreSQL on {self.name} does not start: {self.unit.last_words()}")
                next_check = time.monotonic() + 0.2
            if time.monotonic() >= until:
                raise PostgresError(f"PostgreSQL on {self.name} does not answer yet; recovery may need longer")
            time.sleep(TICK)

    def stop(self, mode: Literal["fast", "immediate"], timeout: float) -> None:
        """End PostgreSQL and all its processes; nothing to do is success.

        "fast" shuts down cleanly, standbys that stream get everything; PostgresError if it takes longer than
        ``timeout``, and it then goes on stopping. "immediate" ends it within about a second whatever state it is in,
        also a frozen one; PostgresError only if processes survive SIGKILL for ``timeout`` seconds.
        """
        self._stops += 1
        withdraw_permit(self.places.permit)
        self._end(mode, time.monotonic() + timeout)

    def _end(self, mode: str, until: float) -> None:
        alive = postmaster.find(self.places.data)
        if mode == "immediate":
            if alive is None:
                self.unit.cancel()
            elif not postmaster.frozen(alive.pid):
                self._signal_and_wait(alive.pid, signal.SIGQUIT, min(until, time.monotonic() + ORDERLY))
            postmaster.kill_all(self.places.data, until)
            return
        if alive is not None and not self._signal_and_wait(alive.pid, signal.SIGINT, until):
            raise PostgresError(f"PostgreSQL on {self.name} did not stop in time; it goes on stopping, or is hung")
        if not postmaster.wait_gone(self.places.data, max(until, time.monotonic() + 0.5)):
            raise PostgresError(f"processes of a former PostgreSQL still use {self.places.data}; kill them")

    def _signal_and_wait(self, pid: int, number: signal.Signals, until: float) -> bool:
        with postmaster.watched(pid, self.places.data) as fd:
            if fd is None:
                return True
            signal.pidfd_send_signal(fd, number)
            while not postmaster.wait_end(fd, min(until, time.monotonic() + 5 * TICK)):
                if time.monotonic() >= until:
                    return False
                self._end_newcomers()
            return True

    def _end_newcomers(self) -> None:
        """End backends that only tell a client that the server shuts down. PostgreSQL waits for them, and they for a
        client who, once the VIP is withdrawn, hears nothing: without this a stop takes until ``tcp_user_timeout``.
        """
        for pid in postmaster.newcomers(self.places.data):
            postmaster.send(pid, signal.SIGTERM, self.places.data)

    # ---- elections

    def cut_receiver(self, timeout: float) -> Position:
        """Disconnect from the upstream for good and replay what was received; where the log then ends.

        When this returns no receiver runs, and none comes back before ``set_role``. PostgresError if the receiver
        does not end, or what was received is not replayed, within ``timeout`` (then it stays cut).
        """
        role, until = role_conf.read(self.places), time.monotonic() + timeout
        self._set_role("", role.sync_names, role.numsync)
        with sql.session(sql.local_dsn(self.places), until) as local:
            self._await_no_receiver(local, until)
        while time.monotonic() < until:
            facts = self.observe(timeout=max(TICK, min(1.0, until - time.monotonic())))
            if facts.state is PgState.STANDBY and not (facts.replaying or facts.receiver) and facts.position:
                return facts.position
            time.sleep(TICK)
        raise PostgresError(f"{self.name} is cut from its upstream, but has not replayed all it received yet")

    def catch_up(self, source: str, position: Position, timeout: float) -> None:
        """Stream from the standby at ``source`` until ``position`` is held here, and cut the receiver again.

        PostgresError if ``position`` is not reached within ``timeout``, or nothing came for a while; it is cut all the
        same, as by ``cut_receiver``. Without a slot: a standby has none for others, nor perhaps room for one.
        """
        role, begun = role_conf.read(self.places), time.monotonic()
        self._set_role(source, role.sync_names, role.numsync, by_slot=False)
        held, moved = None, begun
        while (now := time.monotonic()) < min(begun + timeout, moved + STALLED):
            facts = self.observe(timeout=1.0)
            if facts.state is not PgState.STANDBY or (facts.position and facts.position >= position):
                break
            if facts.position != held:
                held, moved = facts.position, now
            time.sleep(TICK)
        end = self.cut_receiver(timeout)
        if end < position:
            raise PostgresError(f"{self.name} has the log up to {end} and not yet all that {source} has, to {position}")

    def _await_no_receiver(self, local: sql.Session, until: float) -> None:
        ask = (
            "select current_setting('primary_conninfo'), "
            "(select pid from pg_stat_activity where backend_type = 'walreceiver' limit 1)"
        )
        begun, absent = time.monotonic(), 0
        while absent < 2:  # the first absence may be the instant between two receivers
            if time.monotonic() >= until:
                raise PostgresError(f"the WAL receiver of {self.name} does not end; stop PostgreSQL there")
            [(conninfo, pid)] = local.rows(ask, until)
            absent = absent + 1 if not conninfo and pid is None else 0
            if pid is not None and time.monotonic() - begun > LINGER:
                postmaster.send(pid, signal.SIGTERM, self.places.data)
            time.sleep(TICK / 2)

    def promote(self, timeline: int, timeout: float) -> None:
        """Make the standby a writable primary on exactly ``timeline``; done already is success.

        PostgresError if that timeline was used before, or it is not writable within ``timeout``. Checkpoints are the
        caller's: others may rewind to this node only after one.
        """
        until = time.monotonic() + timeout
        with sql.session(sql.local_dsn(self.places), until) as local:
            if local.rows("select pg_is_in_recovery()", until)[0][0]:
                self._write(lambda: directories.reserve_timelines(self.places, timeline))
                local.rows("select pg_promote(false)", until)
                while local.rows("select pg_is_in_recovery()", until)[0][0]:
                    if time.monotonic() >= until:
                        raise PostgresError(f"PostgreSQL on {self.name} was not promoted in time; see its log")
                    time.sleep(TICK / 2)
            [(file,)] = local.rows("select pg_walfile_name(pg_current_wal_lsn())", until)
        if int(file[:8], 16) != timeline:
            raise PostgresError(
                f"PostgreSQL on {self.name} writes on timeline {int(file[:8], 16)}, not {timeline}; stop it"
            )
        self.problem = ""

    def checkpoint(self, timeout: float = 300.0) -> None:
        """Checkpoint at once, on a connection of its own; PostgresError after ``timeout``, and it then goes on."""
        self._sql("checkpoint", timeout=timeout)

    def end_client_sessions(self, timeout: float = 1.0) -> None:
        """Cut all clients' sessions; WAL senders and local administrators stay. By signals, so it works when hung."""
        until = time.monotonic() + timeout
        while pids := postmaster.clients(self.places.data):
            if time.monotonic() >= until:
                raise PostgresError(f"{len(pids)} sessions of clients on {self.name} do not end; stop PostgreSQL")
            for pid in pids:
                postmaster.send(pid, signal.SIGTERM, self.places.data)
            time.sleep(TICK)

    # ---- slots and roles

    def ensure_slots(self, names: Iterable[str]) -> None:
        """A physical slot for each of these members, which keeps log from now on; a slot whose log is gone is made
        anew: whoever comes back and is cloned needs one that keeps log again.
        """
        wanted = list(roles.slot_names(names))
        self._sql(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
            "where slot_name = any(%s::name[]) and wal_status = 'lost' and not active",
            wanted,
        )
        self._sql(
            "select pg_create_physical_replication_slot(s, true) from unnest(%s::name[]) s "
            "where not exists (select from pg_replication_slots where slot_name = s)",
            wanted,
        )

    def drop_slots(self, names: Iterable[str]) -> None:
        """Drop slots by the names that ``PgFacts.slots`` has; PostgresError while one is in use."""
        slots = [name if name.startswith("chefha_") else roles.slot_name(name) for name in names]
        self._sql(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = any(%s::name[])",
            slots,
        )

    def renew_roles(self) -> list[str]:
        """On a running primary: chefha's roles are as the settings say; the names of those that had to be changed.
        Waits for no standby.
        """
        until = time.monotonic() + 10.0
        with sql.session(sql.local_dsn(self.places), until) as local:
            wrong = roles.outdated(self.settings, [(a, b, c) for a, b, c in local.rows(roles.STORED, until)])
            for statement in roles.quietly([line for login in wrong for line in login.statements()]):
                local.rows(statement, until)
        return [login.name for login in wrong]

    def _sql(self, statement: str, *values: object, timeout: float = 5.0) -> None:
        until = time.monotonic() + timeout
        with sql.session(sql.local_dsn(self.places), until) as local:
            local.rows(statement, until, *values)

    # ---- data directories

    def initdb(self) -> None:
        """A new database cluster with its roles, stopped; PostgresError where a data directory is or was."""
        directories.initdb(self.places, self.settings)

    def rewind(self, source: str, timeout: float) -> None:
        """pg_rewind to the primary at ``source``; afterwards start it as a standby. PostgresError if impossible."""
        self.write_pgpass()
        self._remember(lambda: directories.rewind(self.places, self.settings, self.name, source, timeout))

    def clone(
        self, source: str, timeout: float, progress: Callable[[int, int], None] | None = None, slot: bool = False
    ) -> None:
        """Replace the data directory by a verified base backup of ``source``; keep the old one until
        ``forget_old_data``. ``progress`` gets bytes done and in all; ``slot``: use this member's slot, which exists.
        """
        self.write_pgpass()
        own = roles.slot_name(self.name) if slot else ""
        self._remember(lambda: directories.clone(self.places, self.settings, self.name, source, timeout, progress, own))

    def forget_old_data(self) -> None:
        """Delete what the last clone, or a restoration, replaced, once the new directory is proved."""
        directories.forget_old(self.places)

    def staged(self) -> str:
        """System identifier of complete restored data that waits beside the data directory; "" if there is none."""
        return control_file.system_id(self.places.restored)

    def swap_in(self, system_id: str) -> None:
        """Put the restored data that waits in the place of the data directory, which is kept beside it."""
        self._remember(lambda: directories.swap_in(self.places, system_id))

    def _remember(self, change: Callable[[], None]) -> None:
        try:
            change()
            self.problem = ""
        except PostgresError as error:
            self.problem = str(error)
            raise

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            raise PostgresError(f"{error.filename or self.places.home} cannot be written: {error.strerror}") from None
