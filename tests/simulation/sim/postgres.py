"""PostgreSQL as a log of (timeline, record) entries, with streaming, acknowledgements and promotion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chefha_core.model import PgFacts, PgState, Position, TimelineSwitch
from sim.directory import Commit, Data, Entry, Postmaster, Stream
from sim.engine import Steps

if TYPE_CHECKING:
    from sim.host import Host
    from sim.world import World


class Postgres:
    """PostgreSQL of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.data: Data | None = None
        #: complete restored data beside it
        self.restored: Data | None = None
        self.pm: Postmaster | None = None
        self.problem = ""
        self._seeking = False
        #: says that the receiver is cut although it is not (a guard switched off)
        self.lies = False

    @property
    def world(self) -> World:
        return self.host.world

    @property
    def writable(self) -> bool:
        return self.pm is not None and self.pm.primary and self.pm.up

    # ---- processes ----

    def start(self, primary: bool, by_hand: bool = False) -> Steps:
        """Start a postmaster; it recovers and answers some time later. False if it does not start."""
        data, world = self.data, self.world
        if data is None or self.pm is not None or data.damaged:
            return False
        yield world.rng.uniform(0.02, 0.1)
        while self.host.storage_hangs:
            yield 0.1
        if self.host.start_fails or self.pm is not None or self.data is not data:
            self.problem = "could not start"
            return False
        self.problem = ""
        pm = self.pm = Postmaster(primary, by_hand=by_hand)
        data.standby = not primary
        if primary:
            data.was_primary, data.clean = True, False
        world.engine.spawn(self._come_up(pm), self.host)
        return True

    def _come_up(self, pm: Postmaster) -> Steps:
        world = self.world
        yield world.rng.uniform(0.05, 0.6)
        if not pm.alive or self.data is None:
            return
        if not pm.primary:
            self._seek(pm)
            while pm.alive and self.data is not None and len(self.data.log) < self.data.consistent_at:
                yield 0.05
        if not pm.alive or self.data is None:
            return
        pm.up = True
        if pm.primary:
            self.data.checkpoint_timeline = self.data.timeline
            world.primary_started(self.host, pm)
        else:
            self.data.was_primary = self.data.clean = False
        self.host.poke()

    def end(self, clean: bool = False) -> None:
        """No postmaster any more."""
        pm, self.pm = self.pm, None
        if pm is None:
            return
        pm.alive = pm.up = False
        pm.waiting.clear()
        self.disconnect(pm)
        for stream in pm.streams:
            stream.alive = False
            if stream.receiver.receiver is stream and stream.standby.pg.data is not None:
                stream.standby.pg.data.flushed = len(stream.standby.pg.data.log)
                self.world.engine.at(self.world.latency(), stream.standby.pg.reconnect, stream.standby)
        if self.data and clean:
            self.data.clean = True
        self.host.poke()

    def stop(self) -> Steps:
        """A fast stop: a primary ends its sessions and sends everything, the shut-down checkpoint last."""
        pm, world = self.pm, self.world
        if pm is None or self.data is None:
            return True
        if not pm.stopping:
            pm.stopping = True
            world.engine.spawn(self._stopping(pm), self.host)
        while pm.alive:
            yield 0.01
        return True

    def _stopping(self, pm: Postmaster) -> Steps:
        """Goes on whoever asked for it."""
        world = self.world
        assert self.data is not None
        self.end_sessions()
        yield world.rng.uniform(0.03, 0.15)
        while self.host.storage_hangs and pm.alive:
            yield 0.1
        if pm.primary and pm.up and pm.alive:
            self._append([(self.data.timeline, world.new_record())])
            deadline = world.engine.t + 1.5
            while (
                world.engine.t < deadline
                and pm.alive
                and any(s.acked < len(self.data.log) for s in pm.streams if s.alive)
            ):
                yield 0.02
        if pm.alive and self.pm is pm:
            self.end(clean=pm.primary and pm.up and pm.hung_at is None)

    def promote(self, timeline: int | None) -> None:
        """The running standby becomes a primary on a new timeline."""
        pm, data = self.pm, self.data
        assert pm is not None and data is not None
        self.disconnect(pm)
        data.upstream = data.upstream if timeline is None else ""
        pm.primary, data.standby = True, False
        data.was_primary, data.clean = True, False
        number = timeline if timeline is not None else data.timeline + 1
        self._append([(number, self.world.new_record())])
        self.world.primary_started(self.host, pm)

    def end_sessions(self) -> None:
        if self.pm:
            self.pm.sessions += 1
            self.pm.waiting.clear()

    def power_off(self) -> None:
        """The host crashed: what was not flushed is gone."""
        self.end()
        if self.data and not self.data.was_primary:
            del self.data.log[max(1, self.data.flushed) :]

    # ---- log and streaming ----

    def _append(self, entries: list[Entry], flush: bool = True) -> None:
        assert self.data is not None and self.pm is not None
        self.data.log.extend(entries)
        self.pm.replay_until = self.world.engine.t + 0.01
        if flush:
            self.data.flushed = len(self.data.log)
        for stream in self.pm.streams:
            self._send(stream)

    def write(self, record: int, acknowledge: Callable[[], None]) -> None:
        """A client's commit."""
        pm, data = self.pm, self.data
        assert pm is not None and data is not None
        if self.host.storage_hangs:
            return
        self._append([(data.timeline, record)])
        if not data.sync_names:
            acknowledge()
            return
        pm.waiting.append(Commit(len(data.log), record, acknowledge))

    def reconnect(self) -> None:
        if self.pm is not None and not self.pm.primary:
            if self.pm.receiver is not None and not self.pm.receiver.alive:
                self.pm.receiver = None
            self._seek(self.pm)

    def point_to(self, upstream: str, by_slot: bool = True) -> None:
        """primary_conninfo changed, and perhaps primary_slot_name."""
        assert self.data is not None
        self.data.upstream, self.data.by_slot = upstream, by_slot
        if self.pm is not None:
            self.disconnect(self.pm)
            self._seek(self.pm)

    def disconnect(self, pm: Postmaster) -> None:
        """The receiver of ``pm`` is gone."""
        stream, pm.receiver = pm.receiver, None
        if stream is not None:
            if stream.standby is self.host and self.data is not None:  # a receiver flushes before it ends
                self.data.flushed = len(self.data.log)
            stream.alive = False
            if stream in stream.sender.streams:
                stream.sender.streams.remove(stream)

    def _seek(self, pm: Postmaster) -> None:
        if not self._seeking:
            self._seeking = True
            self.world.engine.spawn(self._connect(), self.host)

    def _connect(self) -> Steps:
        """The start-up process tries to stream, again and again."""
        world = self.world
        yield world.latency()
        while True:
            pm, data = self.pm, self.data
            if pm is None or data is None or pm.primary or not data.upstream or pm.receiver is not None:
                self._seeking = False
                return
            if pm.hung_at is None and not pm.deaf:
                self._try(pm, data, data.upstream)
            yield world.rng.uniform(0.2, 0.5)

    def _try(self, pm: Postmaster, data: Data, upstream: str) -> None:
        world = self.world
        other = world.hosts[upstream]
        sender, source = other.pg.pm, other.pg.data
        if (
            sender is None
            or source is None
            or not sender.up
            or sender.hung_at is not None
            or sender.stopping
            or other is self.host
        ):
            return
        if (
            not (world.reach(self.host.name, upstream, "pg") and world.reach(upstream, self.host.name, "pg"))
            or other.frozen
        ):
            return
        if self._refused(data, source):
            return
        if source.log[: len(data.log)] != data.log:
            world.violation(
                f"{self.host.name} streams from {upstream} on timeline {data.timeline}, but their logs differ: "
                "two writers shared a timeline"
            )
        stream = pm.receiver = Stream(self.host, pm, sender, [], len(data.log))
        sender.streams.append(stream)
        stream.acked = data.flushed
        other.pg._send(stream)

    @staticmethod
    def _refused(mine: Data, theirs: Data) -> bool:
        """PostgreSQL's own check: the same system, the start is on the sender's history and not ahead of it."""
        if mine.system_id != theirs.system_id:
            return True
        if mine.timeline == theirs.timeline:
            return len(mine.log) > theirs.flushed
        return all(row.timeline != mine.timeline or len(mine.log) > row.lsn for row in theirs.history())

    def _send(self, stream: Stream) -> None:
        assert self.data is not None
        if not stream.alive:
            return
        world = self.world
        end = self.data.flushed
        have = stream.base + len(stream.buffer)
        stream.buffer.extend(self.data.log[have:end])
        delay = world.latency()
        world.engine.at(delay, lambda: self._arrive(stream, end), stream.standby)

    def _arrive(self, stream: Stream, end: int) -> None:
        """A part of the log reaches the standby's receiver."""
        world, pg = self.world, stream.standby.pg
        if not stream.alive or stream.receiver is not pg.pm or pg.data is None:
            return
        if not world.reach(self.host.name, stream.standby.name, "pg") or (stream.receiver.hung_at is not None):
            world.engine.at(0.25, lambda: self._arrive(stream, end), stream.standby)
            return
        have = len(pg.data.log)
        fresh = stream.buffer[have - stream.base : end - stream.base]
        if fresh:
            pg._append(fresh, flush=False)
        length = len(pg.data.log)
        world.engine.at(world.rng.uniform(0.0005, 0.01), lambda: self._flushed(stream, length), stream.standby)

    def _flushed(self, stream: Stream, length: int) -> None:
        pg = stream.standby.pg
        if not stream.alive or stream.receiver is not pg.pm or pg.data is None or stream.receiver.hung_at is not None:
            return
        if stream.standby.storage_hangs:
            self.world.engine.at(0.25, lambda: self._flushed(stream, length), stream.standby)
            return
        pg.data.flushed = max(pg.data.flushed, min(length, len(pg.data.log)))
        for below in stream.receiver.streams:
            pg._send(below)
        world = self.world
        world.engine.at(world.latency(), lambda: self._acknowledged(stream, length), self.host)

    def _acknowledged(self, stream: Stream, length: int) -> None:
        """The primary hears how far a standby has flushed. The connection may be cut meanwhile: the news was sent.
        A machine that lost its power repeats nothing.
        """
        world, pm = self.world, stream.sender
        if pm is not self.pm or self.data is None or not stream.standby.up:
            return
        if not world.reach(stream.standby.name, self.host.name, "pg") or pm.hung_at is not None:
            world.engine.at(0.25, lambda: self._acknowledged(stream, length), self.host)
            return
        stream.acked = max(stream.acked, length)
        if pm.primary and stream.standby.name in self.data.sync_names:
            self._release(stream.acked)

    def _release(self, length: int) -> None:
        assert self.pm is not None
        done = [c for c in self.pm.waiting if c.lsn <= length]
        self.pm.waiting = [c for c in self.pm.waiting if c.lsn > length]
        for commit in done:
            commit.acknowledge()

    def set_sync(self, names: tuple[str, ...]) -> None:
        assert self.data is not None
        self.data.sync_names = names
        if self.pm and self.pm.up and self.pm.primary and not names:
            self._release(len(self.data.log))

    # ---- what leaderl sees ----

    def facts(self, leader: str) -> PgFacts:
        """One look."""
        data, pm, world = self.data, self.pm, self.world
        if data is None:
            return PgFacts(problem=self.problem)
        state = PgState.STOPPED
        if pm is not None:
            state = (
                (PgState.PRIMARY if pm.primary else PgState.STANDBY) if pm.up and not pm.stopping else PgState.STARTING
            )
            if pm.hung_at is not None and world.engine.t > pm.hung_at + 2.0:
                state = PgState.HUNG
        known = state in (PgState.PRIMARY, PgState.STANDBY) or (
            state is PgState.STOPPED and (data.clean or not data.was_primary)
        )
        length = len(data.log) if state is PgState.PRIMARY or pm is None else data.flushed
        if self.lies:
            return self._lie(data, state)
        receiver = pm is not None and not pm.primary and bool(data.upstream)
        streaming = pm is not None and pm.up and pm.receiver is not None and pm.receiver.alive
        if pm is not None:
            alone = state is PgState.STANDBY and not streaming
            pm.without_since = (pm.without_since or world.engine.t) if alone else None
        history: tuple[TimelineSwitch, ...] = ()
        source = data.upstream if data.upstream and pm is not None else leader
        if not streaming and source and source != self.host.name and state is not PgState.PRIMARY:
            history = self._fetch_history(source)
        return PgFacts(
            state=state,
            system_id=data.system_id,
            position=Position(data.log[length - 1][0], length) if known and not data.damaged else None,
            was_primary=data.was_primary and not (data.standby and state in (PgState.STARTING, PgState.HUNG)),
            clean=data.clean,
            upstream=world.members[data.upstream] if data.upstream else "",
            by_slot=data.by_slot,
            receiver=receiver,
            streaming=streaming,
            replaying=pm is not None
            and not pm.primary
            and (world.engine.t < pm.replay_until or length < len(data.log)),
            upstream_history=history,
            checkpoint_timeline=data.checkpoint_timeline,
            sync_names=data.sync_names,
            slots={name: True for name in data.slots},
            standbys=tuple(s.standby.name for s in pm.streams if s.alive) if pm else (),
            damaged=data.damaged,
            problem=self.problem,
            without_stream=world.engine.t - pm.without_since if pm is not None and pm.without_since else 0.0,
        )

    def _lie(self, data: Data, state: PgState) -> PgFacts:
        position = Position(data.log[data.flushed - 1][0], data.flushed)
        return PgFacts(
            state=state, system_id=data.system_id, position=position, checkpoint_timeline=data.checkpoint_timeline
        )

    def _fetch_history(self, source: str) -> tuple[TimelineSwitch, ...]:
        other = self.world.hosts[source]
        reach = self.world.reach
        if not reach(self.host.name, source, "pg") or not reach(source, self.host.name, "pg") or other.frozen:
            return ()
        if other.pg.pm is None or not other.pg.pm.up or other.pg.pm.hung_at is not None or other.pg.data is None:
            return ()
        data = other.pg.data
        return (*data.history(), TimelineSwitch(data.timeline, data.flushed))
