"""What a plan may ask for: small frozen objects, each with its reason in words.

*Quick* commands take milliseconds and run in leaderl's loop. *Jobs* may take seconds or hours and run one at a time
in its worker, while the loop goes on renewing (``Command.job``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chefha_core.model import Candidacy, LeaderState, Position, Restoration, SyncRule


@dataclass(frozen=True)
class Command:
    """One thing to do, and why."""

    reason: str
    job: ClassVar[bool] = False


# ---- the leader key and its neighbours in etcd ----


@dataclass(frozen=True)
class Renew(Command):
    """Write the leader key again, if its revision is still ``expect``; success makes a new lease."""

    expect: int
    epoch: int
    state: LeaderState
    timeline: int
    lsn: int
    beat: int


@dataclass(frozen=True)
class TakeKey(Command):
    """Become leader of ``epoch``, if the key and all candidacies compared are still what was seen."""

    expect: int
    epoch: int
    timeline: int
    compared: tuple[Candidacy, ...]
    previous: str
    cause: str
    #: revision of the request to do so without an election, 0 for none
    force: int = 0


@dataclass(frozen=True)
class ReleaseKey(Command):
    """Give the key up for ``to`` ("" for anybody), if its revision is still ``expect``."""

    expect: int
    epoch: int
    timeline: int
    lsn: int
    to: str
    clean: bool
    #: False: this node could not lead, and shall not be elected again for a while
    fit: bool = True


@dataclass(frozen=True)
class PostCandidacy(Command):
    """Say in etcd that this node's WAL receiver is cut and where its log ends."""

    epoch: int
    position: Position
    fit: bool


@dataclass(frozen=True)
class WithdrawCandidacy(Command):
    """Delete the own candidacy; only then may the WAL receiver be connected again."""


@dataclass(frozen=True)
class AskHandOver(Command):
    """Ask for a hand-over of ``epoch`` to whoever is eligible, as `demote` does."""

    epoch: int


@dataclass(frozen=True)
class ClearIntent(Command):
    """Delete the hand-over asked for and leave ``outcome`` as its result."""

    to: str
    epoch: int
    outcome: str


@dataclass(frozen=True)
class ClearRestore(Command):
    """Delete the restoration asked for, and leave the reason as its result."""


@dataclass(frozen=True)
class PublishRestore(Command):
    """The restored data is the cluster's from now on: its system identifier, a new epoch, its timeline, in one
    transaction if the leader key's revision is still ``expect``. Nobody may acknowledge anything on other data then.
    """

    expect: int
    epoch: int
    request: Restoration
    sync: SyncRule


@dataclass(frozen=True)
class ClaimInitialisation(Command):
    """Become the one node that may run initdb, if nobody is."""


@dataclass(frozen=True)
class PublishCluster(Command):
    """First leader: store system identifier, sync rule and leader key in one transaction."""

    system_id: str
    sync: SyncRule
    timeline: int


@dataclass(frozen=True)
class PublishSync(Command):
    """Store the rule by which elections count."""

    rule: SyncRule


@dataclass(frozen=True)
class AskFailsafe(Command):
    """Ask every other member whether this leader may go on while etcd has no quorum."""

    epoch: int


@dataclass(frozen=True)
class AskLeader(Command):
    """Ask the leader directly whether it leads."""

    name: str


# ---- the virtual address ----


@dataclass(frozen=True)
class HoldAddress(Command):
    """Give the VIP to the kernel until ``seconds`` after the lease began; ``take``: it is new here, announce it;
    ``check``: look for somebody else who answers for it first."""

    seconds: float
    take: bool
    check: bool


@dataclass(frozen=True)
class DropAddress(Command):
    """Remove the VIP now."""


@dataclass(frozen=True)
class EndClientSessions(Command):
    """Cut the sessions of clients, who would hang on a withdrawn address."""


# ---- PostgreSQL ----


@dataclass(frozen=True)
class CutReceiver(Command):
    """Disconnect the WAL receiver for good, so that nobody gets an acknowledgement from here any more."""

    job: ClassVar[bool] = True


@dataclass(frozen=True)
class CatchUp(Command):
    """Stand no more, fetch the log up to ``position`` from the standby at the address ``upstream``, and cut the
    receiver again.
    """

    upstream: str
    position: Position
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class Promote(Command):
    """Make the standby a primary on ``timeline``, acknowledged by ``sync_names``."""

    timeline: int
    sync_names: tuple[str, ...]
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class StartPrimary(Command):
    """Start (or, after a crash, restart) PostgreSQL as the primary that it was."""

    sync_names: tuple[str, ...]
    kill_first: bool
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class StartStandby(Command):
    """Start PostgreSQL as a standby of ``upstream`` ("" for none)."""

    upstream: str
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class Follow(Command):
    """Point the running standby to ``upstream``."""

    upstream: str


@dataclass(frozen=True)
class SetSync(Command):
    """Set who may acknowledge; done when PostgreSQL goes by it."""

    sync_names: tuple[str, ...]
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class StopPostgres(Command):
    """Stop PostgreSQL cleanly: its standbys have received everything when it ends."""

    job: ClassVar[bool] = True


@dataclass(frozen=True)
class KillPostgres(Command):
    """End PostgreSQL at once, beside any job: nothing may be acknowledged any more."""


@dataclass(frozen=True)
class Slots(Command):
    """Create and drop physical replication slots so that exactly those of ``names`` exist."""

    names: tuple[str, ...]
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class Checkpoint(Command):
    """Checkpoint, after which others may rewind to this primary, and a fast stop is fast."""

    #: revision of the hand-over that it prepares, 0 for none
    prepares: int = 0
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class Rewind(Command):
    """Turn a diverged directory into a running standby of ``upstream`` with pg_rewind."""

    upstream: str
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class Restart(Command):
    """End the standby at once and start it again, as a standby of ``upstream``."""

    upstream: str
    #: what ``Observation.new_starts`` is from then on
    new_starts: int
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class Clone(Command):
    """Replace the directory by a fresh base backup of ``upstream`` and start it as a standby."""

    upstream: str
    #: what ``Observation.new_starts`` is from then on
    new_starts: int = 0
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class SwapIn(Command):
    """Put the restored data in the place of the data directory, and keep what was there beside it."""

    system_id: str
    job: ClassVar[bool] = True


@dataclass(frozen=True)
class InitDb(Command):
    """Create the cluster's first data directory with its roles; leaves it stopped."""

    job: ClassVar[bool] = True


@dataclass(frozen=True)
class Plan:
    """What to do now, what this node is, and when to look again at the latest."""

    commands: tuple[Command, ...]
    role: str
    #: why the node is what it is, or what it waits for
    reason: str
    #: own clock
    wake_at: float
