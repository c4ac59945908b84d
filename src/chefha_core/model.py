"""Facts: what a node knows at one instant, as frozen dataclasses.

``observe`` fills them, ``plan`` reads them, nothing here does any I/O. Times are seconds of the node's own
monotonic clock, LSNs are integers (bytes of write-ahead log), names are member names of the pillar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class LeaderState(StrEnum):
    """What the holder of the leader key says it is doing."""

    PROMOTING = "promoting"
    LEADING = "leading"
    RELEASING = "releasing"


class PgState(StrEnum):
    """What a PostgreSQL data directory is doing, the only distinctions policy needs."""

    EMPTY = "empty"  # no data directory
    STOPPED = "stopped"  # data, no postmaster
    STARTING = "starting"  # a postmaster that does not answer yet (also: recovering from a crash)
    STANDBY = "standby"  # answers, in recovery, consistent
    PRIMARY = "primary"  # answers, writable
    HUNG = "hung"  # a postmaster that has not answered within its deadline, several times in a row


@dataclass(frozen=True, order=True)
class Position:
    """A place in the write-ahead log. Ordered: a later timeline beats any LSN of an earlier one."""

    timeline: int
    lsn: int

    def __str__(self) -> str:
        return f"{self.timeline}:{format_lsn(self.lsn)}"


def format_lsn(lsn: int) -> str:
    """PostgreSQL's notation, ``16/B374D848``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """The integer behind ``16/B374D848``; ValueError for anything else."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


@dataclass(frozen=True)
class TimelineSwitch:
    """One row of a timeline history: ``timeline`` ended at ``lsn``, where the next one begins."""

    timeline: int
    lsn: int


@dataclass(frozen=True)
class PgFacts:
    """What one look at the local PostgreSQL found."""

    state: PgState = PgState.EMPTY
    system_id: str = ""
    #: timeline and end of what this node holds (received or replayed on a standby, written on a primary);
    #: None where only crash recovery could tell
    position: Position | None = None
    #: True if pg_control says that the directory was last used as a primary ("in production", "shut down"); not of a
    #: base backup that never ran, in which pg_control speaks of the server it was taken from
    was_primary: bool = False
    #: True if a primary was shut down cleanly ("shut down"), so ``position`` is exact although stopped
    clean: bool = False
    #: address the WAL receiver is configured for, "" when cut
    upstream: str = ""
    #: False if it asks there without this member's slot, as to catch up from another standby: that is not to follow
    by_slot: bool = True
    #: True while a WAL receiver process exists, streaming or trying to
    receiver: bool = False
    streaming: bool = False
    #: True while received WAL is still being replayed, so ``position`` is not final
    replaying: bool = False
    #: history of the upstream's timeline, fetched only while not streaming; () if unknown
    upstream_history: tuple[TimelineSwitch, ...] = ()
    #: True if the upstream has not the log any more that this node needs next
    log_gone: bool = False
    checkpoint_timeline: int = 0
    #: bytes crash recovery would have to replay, as far as known
    redo_bytes: int = 0
    #: names in synchronous_standby_names as running, in order
    sync_names: tuple[str, ...] = ()
    #: physical replication slots by name -> active
    slots: Mapping[str, bool] = field(default_factory=dict)
    #: application names of standbys streaming from here
    standbys: tuple[str, ...] = ()
    #: True after a rewind that did not finish: only a fresh base backup helps
    damaged: bool = False
    #: why the last look or start failed, in words
    problem: str = ""
    #: seconds for which PostgreSQL has been in this state
    since: float = 0.0
    #: seconds for which a standby that runs has not streamed, moments apart; 0 once it has for a while
    without_stream: float = 0.0


@dataclass(frozen=True)
class LeaderKey:
    """The leader key as etcd has it."""

    name: str
    epoch: int
    state: LeaderState
    #: timeline on which this leader writes; chosen in the take-over so that no two leaders ever share one
    timeline: int
    #: where the leader stands; on RELEASING the end of its shut-down log
    lsn: int = 0
    #: RELEASING after a clean stop: who is to take over; "" for anybody
    to: str = ""
    #: RELEASING after a clean stop: True if ``lsn`` is final, so who has it needs no quorum
    clean: bool = False
    #: counts renewals, so that each renewal changes the key
    beat: int = 0


@dataclass(frozen=True)
class Candidacy:
    """``name`` has cut its WAL receiver for good and stands at ``position``, to replace ``epoch``."""

    name: str
    epoch: int
    position: Position
    #: False: it asserts what it holds, but must not lead itself
    fit: bool = True
    mod_revision: int = 0


@dataclass(frozen=True)
class SyncRule:
    """Who may acknowledge and who must assert: see plan/durability.py for the invariant."""

    voters: tuple[str, ...]
    numsync: int
    quorum: int


@dataclass(frozen=True)
class Intent:
    """A planned hand-over that somebody asked for."""

    to: str
    by: str
    epoch: int
    mod_revision: int = 0


@dataclass(frozen=True)
class Restoration:
    """Restored data waits beside the leader's data directory, and somebody asked to put it in its place."""

    by: str
    epoch: int
    #: of the restored data, which nobody else has: every restoration makes a new one
    system_id: str
    #: on which the restored data is to be led
    timeline: int
    #: which archive it is, for people
    source: str = ""
    mod_revision: int = 0


@dataclass(frozen=True)
class Force:
    """Somebody asked that ``to`` leads where nobody does, without an election."""

    to: str
    by: str
    #: the last epoch there was; another one makes this request void
    epoch: int
    #: also where another member has more, or where this log does not count
    accept_data_loss: bool = False
    mod_revision: int = 0


@dataclass(frozen=True)
class MemberReport:
    """What a member says of itself in etcd; the key lives on a lease, so an old one vanishes."""

    name: str
    address: str
    pg: PgState
    role: str
    position: Position | None = None
    streaming: bool = False
    checkpoint_timeline: int = 0
    failover: bool = True
    system_id: str = ""
    reason: str = ""
    version: str = ""
    vip: bool = False
    #: by which user it is in etcd; others are deleted once nobody uses them
    etcd_user: str = ""
    #: master, not_master, offline; "" where there is no search
    search: str = ""
    #: what is wrong with the storage under its PostgreSQL, "" if nothing
    storage: str = ""


@dataclass(frozen=True)
class ClusterConfig:
    """What the cluster agreed on once."""

    system_id: str
    failover: bool = True
    #: system identifiers that this cluster's data had before a restoration: such data may be replaced, and never leads
    former: tuple[str, ...] = ()


@dataclass(frozen=True)
class EtcdView:
    """One linearizable read of the whole prefix."""

    revision: int
    leader: LeaderKey | None = None
    leader_revision: int = 0
    #: own clock, when this node first saw ``leader_revision`` (or the key's absence)
    leader_changed_at: float = 0.0
    candidates: Mapping[str, Candidacy] = field(default_factory=dict)
    members: Mapping[str, MemberReport] = field(default_factory=dict)
    config: ClusterConfig | None = None
    #: who won the right to run initdb, "" if nobody
    initialiser: str = ""
    sync: SyncRule | None = None
    intent: Intent | None = None
    #: own clock, when this node first saw ``intent``
    intent_seen_at: float = 0.0
    restore: Restoration | None = None
    #: own clock, when this node first saw ``restore``
    restore_seen_at: float = 0.0
    #: the highest epoch and timeline in history/, for a leader key that was deleted
    last_epoch: int = 0
    last_timeline: int = 0
    #: every timeline that was ever given to a leader
    timelines: frozenset[int] = frozenset()
    #: members for which somebody switched failover off
    switched_off: frozenset[str] = frozenset()
    #: a leader asked for without an election
    force: Force | None = None
    #: who is the only one with data, after a loss of the quorum or before anybody has joined; "" if nobody is
    alone: str = ""
    #: members taken out by remove-node
    removed: frozenset[str] = frozenset()
    #: who may create the cluster without waiting for the others, "" if nobody
    bootstrap: str = ""


@dataclass(frozen=True)
class Lease:
    """This node's own hold on the leader key, counted from before the renewal was sent."""

    epoch: int
    sent_at: float


class Probe(StrEnum):
    """What the leader answered when asked directly whether it leads."""

    UNKNOWN = "unknown"  # not asked yet, or the answer is too old
    LEADS = "leads"
    DENIES = "denies"
    SILENT = "silent"


@dataclass(frozen=True)
class Observation:
    """Everything a round of planning may use."""

    now: float
    name: str
    #: None: no quorum of etcd answered in this round
    etcd: EtcdView | None
    pg: PgFacts
    #: last view that etcd answered, for reasons and for failsafe
    last_etcd: EtcdView | None = None
    lease: Lease | None = None
    #: True while the VIP is on this node
    address: bool = False
    #: hardware address of a stranger who answered for the VIP, "" if nobody did
    address_taken_by: str = ""
    probe: Probe = Probe.UNKNOWN
    #: seconds since that answer came
    probe_age: float = 0.0
    #: own clock until when this node promised the leader not to run for election
    promised_until: float = 0.0
    #: the machine was paused, or a round took longer than the lease, since the last round
    paused: bool = False
    #: what the worker is busy with, "" if idle
    job: str = ""
    #: own clock before which failed rejoin attempts are not repeated
    retry_at: float = 0.0
    #: new starts and base backups since this node last streamed, made because it did not although it could have
    new_starts: int = 0
    #: rejoin attempts that failed since the last success
    failed_rejoins: int = 0
    #: epoch whose converge was asked for by Salt (or by the verb)
    asked_to_converge: int = 0
    #: own clock, when this node took the key of the present epoch
    took_at: float = 0.0
    #: own clock, when this node posted its present candidacy
    asserted_at: float = 0.0
    #: True if the present epoch of this leader came by a clean hand-over
    handed_over: bool = False
    #: revision of the hand-over for which the checkpoint is done
    prepared_for: int = 0
    #: where the log ended when PostgreSQL had begun to wait for those it waits for now; 0 if that is not known
    waits_since: int = 0
    #: restarts in place tried since PostgreSQL last ran well
    restarts: int = 0
    #: own clock, when this node last asked for a hand-over because of its storage; 0 if never
    asked_at: float = 0.0
    #: system identifier of complete restored data that waits beside the data directory, "" if there is none
    staged: str = ""
    #: why search or a vain attempt to lead makes this node ineligible, "" if nothing
    unfit: str = ""
    #: what is wrong with the storage under PostgreSQL, "" if nothing: then it must not lead either
    storage: str = ""
    #: True while a write there has not come back: whoever writes there next hangs, too
    storage_hangs: bool = False
    #: node switch of failover
    failover: bool = True
