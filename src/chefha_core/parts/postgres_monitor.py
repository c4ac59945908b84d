"""Watches the local PostgreSQL in a thread of its own and keeps what it last saw.

Looks at every interval, at once when asked, and at once when the postmaster dies: the kernel tells through a pidfd.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from chefha_core.model import PgFacts, PgState, Position, TimelineSwitch
from chefha_core.parts import postmaster
from chefha_core.parts.postgres_observe import LOG_GONE, Look
from chefha_core.parts.postgres_tools import Places

log = logging.getLogger(__name__)

#: looks in a row without an answer after which PostgreSQL counts as hung, if its first process is frozen
HUNG_AFTER = 2
#: the same if it is not: it may be no more than slow on a busy machine, and to kill it would only add to the work
STUCK_AFTER = 6
#: seconds after which a look that has not ended, or was not possible, is taken for a PostgreSQL that hangs
BLIND = 8.0
#: seconds after which an upstream's history is read again
REREAD = 1.0
#: seconds between two looks while PostgreSQL starts or stands for election
RESTLESS = 0.1
#: seconds without a break after which a stream is one: log that leads nowhere ends it again and again at once
STEADY = 3.0


class Looker(Protocol):
    """What the monitor needs of ``Postgres``."""

    places: Places

    def look(self, history_from: str = "", timeout: float = 1.0) -> Look: ...

    def history(self, address: str, position: Position | None) -> tuple[tuple[TimelineSwitch, ...], str]: ...


@dataclass(frozen=True)
class _History:
    """What an upstream said of itself: valid for this position only, for an older row proves no divergence."""

    address: str
    position: Position | None
    rows: tuple[TimelineSwitch, ...]
    problem: str
    read_at: float


class _Histories:
    """Reads timeline histories in threads of their own: a dead upstream must not hold up a look."""

    def __init__(self, postgres: Looker, ready: Callable[[], None]) -> None:
        self._postgres, self._ready = postgres, ready
        self._last: _History | None = None
        self._reader: threading.Thread | None = None

    def add(self, facts: PgFacts, address: str) -> PgFacts:
        """``facts`` with the upstream's history, as far as it is known; has it read (again) where it is not."""
        if not address or facts.streaming or facts.state not in (PgState.STOPPED, PgState.STANDBY):
            self._last = None
            return facts
        last = self._last
        fits = last is not None and (last.address, last.position) == (address, facts.position)
        if not fits or (last is not None and time.monotonic() - last.read_at > REREAD):
            self._begin(address, facts.position)
        if last is None or not fits:
            return facts
        gone = LOG_GONE in last.problem
        return replace(facts, upstream_history=last.rows, log_gone=gone, problem=facts.problem or last.problem)

    def _begin(self, address: str, position: Position | None) -> None:
        if self._reader is None or not self._reader.is_alive():
            self._reader = threading.Thread(
                target=self._read, args=(address, position), name="chefha-history", daemon=True
            )
            self._reader.start()

    def _read(self, address: str, position: Position | None) -> None:
        rows, problem = self._postgres.history(address, position)
        self._last = _History(address, position, rows, problem, time.monotonic())
        self._ready()


class PostgresMonitor(threading.Thread):
    """``facts`` is the latest look; ``on_change`` is called with it, in this thread, when policy might care.

    ``interval`` and ``timeout`` (of one look) in seconds.
    """

    def __init__(
        self,
        postgres: Looker,
        interval: float,
        on_change: Callable[[PgFacts], None] = lambda facts: None,
        timeout: float = 1.0,
    ) -> None:
        super().__init__(name="chefha-postgres", daemon=True)
        self._postgres, self._interval, self._timeout, self._on_change = postgres, interval, timeout, on_change
        #: address whose timeline history is read while PostgreSQL does not stream
        self.history_from = ""
        self.facts = PgFacts()
        #: own clock, when the look behind ``facts`` began
        self.looked_at = 0.0
        self._state_since = time.monotonic()
        #: own clock, when a running standby was first seen without a stream, and when its present stream began
        self._without_since = self._stream_since = 0.0
        self._asked_at = self._awake_since = 0.0
        self._late = 0
        self._looking = threading.Lock()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._histories = _Histories(postgres, self.poke)

    def poke(self) -> None:
        """Look soon, in the monitor's thread."""
        os.eventfd_write(self._bell, 1)

    def look(self) -> PgFacts:
        """Look now, in the caller's thread; what was seen began after this call."""
        with self._looking:
            begun = time.monotonic()
            found = self._postgres.look(timeout=self._timeout)
            self._take(replace(found, facts=self._histories.add(found.facts, self.history_from)), begun)
            return self.facts

    def recent_facts(self) -> PgFacts:
        """``facts``, but HUNG where nobody has been able to look for too long: old facts would lead for ever.

        To be asked again and again: time in which the asker stood still, and so this thread did too, does not count.
        """
        now = time.monotonic()
        if now - self._asked_at > BLIND / 2:
            self._awake_since = now
        self._asked_at = now
        blind = now - max(self.looked_at, self._awake_since)
        if blind < max(BLIND, 4 * self._interval) or self.facts.state in (PgState.EMPTY, PgState.STOPPED):
            return self.facts
        return replace(self.facts, state=PgState.HUNG, problem=f"nobody could look at PostgreSQL for {blind:.0f} s")

    def close(self) -> None:
        """End the thread."""
        self._stopping = True
        self.poke()

    def run(self) -> None:
        while not self._stopping:
            try:
                self.look()
                self._wait()
            except Exception:  # a monitor that ended would leave old facts for ever
                log.exception("looking at PostgreSQL failed")
                time.sleep(self._interval)

    def _take(self, found: Look, begun: float) -> None:
        self._late = self._late + 1 if found.late else 0
        before, facts = self.facts, found.facts
        if self._late >= HUNG_AFTER and (self._late >= STUCK_AFTER or self._frozen()):
            facts = replace(facts, state=PgState.HUNG)
        elif found.late and before.state not in (PgState.EMPTY, PgState.STOPPED):
            facts = replace(before, problem=facts.problem)  # once is no proof
        if facts.state is not before.state:
            self._state_since = begun
        without = self._without_stream(facts, begun)
        self.facts = replace(facts, since=time.monotonic() - self._state_since, without_stream=without)
        self.looked_at = begun
        if _relevant(self.facts) != _relevant(before):
            self._on_change(self.facts)

    def _without_stream(self, facts: PgFacts, now: float) -> float:
        """See ``PgFacts.without_stream``."""
        standby = facts.state is PgState.STANDBY
        self._stream_since = (self._stream_since or now) if standby and facts.streaming else 0.0
        steady = self._stream_since and now - self._stream_since >= STEADY
        self._without_since = (self._without_since or now) if standby and not steady else 0.0
        return now - self._without_since if self._without_since else 0.0

    def _frozen(self) -> bool:
        alive = postmaster.find(self._postgres.places.data)
        return alive is not None and postmaster.frozen(alive.pid)

    def _wait(self) -> None:
        """Until the interval is over, somebody pokes, or the postmaster dies."""
        places = self._postgres.places
        alive = postmaster.find(places.data)
        with postmaster.watched(alive.pid, places.data) if alive else contextlib.nullcontext() as death:
            poll = select.poll()
            poll.register(self._bell, select.POLLIN)
            if death is not None:
                poll.register(death, select.POLLIN)
            elif self.facts.state not in (PgState.EMPTY, PgState.STOPPED):
                return  # it died between the look and now
            poll.poll(self._pause() * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _pause(self) -> float:
        restless = self.facts.state is PgState.STARTING or (
            self.facts.state is PgState.STANDBY and not self.facts.streaming
        )
        return min(self._interval, RESTLESS) if restless else self._interval


def _relevant(facts: PgFacts) -> PgFacts:
    """What must not change unnoticed: all but how far a log moves while it moves as it should."""
    moving = facts.state is PgState.PRIMARY or facts.streaming
    position = replace(facts.position, lsn=0) if facts.position and moving else facts.position
    replaying = facts.replaying and not moving
    return replace(facts, position=position, replaying=replaying, redo_bytes=0, since=0.0, without_stream=0.0)
