"""What PostgreSQL consists of: a data directory, a postmaster, streams between them, commits that wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chefha_core.model import TimelineSwitch

if TYPE_CHECKING:
    from sim.host import Host

Entry = tuple[int, int]


@dataclass
class Data:
    """A data directory: survives everything but its replacement."""

    system_id: str
    log: list[Entry]
    flushed: int = 0
    was_primary: bool = False
    clean: bool = False
    standby: bool = True
    upstream: str = ""
    by_slot: bool = True
    sync_names: tuple[str, ...] = ()
    slots: frozenset[str] = frozenset()
    checkpoint_timeline: int = 1
    damaged: bool = False
    #: length of log without which it is not consistent (after a rewind)
    consistent_at: int = 0

    @property
    def timeline(self) -> int:
        return self.log[-1][0]

    @property
    def usable(self) -> bool:
        """False in the middle of a rewind: without its source nobody can do anything with it."""
        return not self.damaged and len(self.log) >= self.consistent_at

    def history(self) -> tuple[TimelineSwitch, ...]:
        """Where each earlier timeline ended."""
        rows, log = [], self.log
        for index in range(1, len(log)):
            if log[index][0] != log[index - 1][0]:
                rows.append(TimelineSwitch(log[index - 1][0], index))
        return tuple(rows)


@dataclass
class Stream:
    """A connection from a standby's receiver to a walsender."""

    standby: Host
    receiver: Postmaster
    sender: Postmaster
    buffer: list[Entry]
    base: int
    acked: int = 0
    alive: bool = True


@dataclass
class Commit:
    """A client that waits for its acknowledgement."""

    lsn: int
    record: int
    acknowledge: Callable[[], None]


@dataclass(eq=False)
class Postmaster:
    """A running PostgreSQL."""

    primary: bool
    up: bool = False
    alive: bool = True
    hung_at: float | None = None
    #: its receiver never connects again
    deaf: bool = False
    #: when it was first seen without a stream, None while it has one
    without_since: float | None = None
    stopping: bool = False
    streams: list[Stream] = field(default_factory=list)
    receiver: Stream | None = None
    waiting: list[Commit] = field(default_factory=list)
    #: how the rightful leader's state came about, for the invariants: None, or the epoch under which it started
    by_hand: bool = False
    replay_until: float = 0.0
    sessions: int = 0
