"""What leaderl remembers between rounds. All of it is lost with the process, and the planner is safe without it."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from chefha_core.model import EtcdView, Lease, Probe
from chefha_core.parts.clock import PAUSE, suspended

#: seconds for which the leader's answer to a direct question counts
PROBE_LIFE = 1.0
SUSPENDED = "the machine was suspended: the lease cannot be trusted"


@dataclass
class Step:
    """One command carried out, for people: what, why, how long, and how it ended."""

    epoch: int
    step: str
    reason: str
    seconds: float
    outcome: str

    def row(self) -> dict[str, Any]:
        """As plain data."""
        return {"step": self.step, "reason": self.reason, "seconds": round(self.seconds, 3), "outcome": self.outcome}


@dataclass
class Memory:
    """Shared by the loop and the threads around it; single attributes are written atomically."""

    lease: Lease | None = None
    view: EtcdView | None = None
    last_view: EtcdView | None = None
    #: revision of the leader key -> own clock when its event arrived, of the newest event only
    heard: tuple[int, float] = (0, 0.0)
    probe: tuple[Probe, float] = (Probe.UNKNOWN, 0.0)
    promised_until: float = 0.0
    #: from the attempt to post a candidacy until it is withdrawn: then nothing is promised to the leader
    standing: bool = False
    #: revision of the leader key that the candidacy was compared with: once it has changed, no late write counts
    stood_against: int = 0
    #: held while a candidacy is posted and while a promise is made, so that never both happen
    standing_lock: threading.Lock = field(default_factory=threading.Lock)
    job: str = ""
    retry_at: float = 0.0
    failed_rejoins: int = 0
    new_starts: int = 0
    asked_to_converge: int = 0
    #: for how long the machine had been suspended when this round began
    slept: float = 0.0
    took_at: float = 0.0
    handed_over: bool = False
    asserted_at: float = 0.0
    prepared_for: int = 0
    restarts: int = 0
    #: for whom PostgreSQL waits, and where its log ended when it had begun to
    waits: tuple[tuple[str, ...], int] = ((), 0)
    address_taken_by: str = ""
    #: own clock when nobody answered for the VIP
    address_free_at: float = 0.0
    unfit: str = ""
    #: own clock until when ``unfit`` counts
    unfit_until: float = 0.0
    #: own clock when a hand-over was asked for because of the storage
    asked_at: float = 0.0
    #: what is wrong with the storage under PostgreSQL, "" if nothing, and whether a write hangs there
    storage: str = ""
    storage_hangs: bool = False
    #: why its search makes this node unfit, "" if it does not
    search_unfit: str = ""
    role: str = "waiting_for_leader"
    reason: str = "leaderl has just started"
    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=200))
    #: set to make the loop look at once
    bell: threading.Event = field(default_factory=threading.Event)
    #: notified after every round
    round_done: threading.Condition = field(default_factory=threading.Condition)

    def saw(self, view: EtcdView | None, name: str) -> None:
        """Take in what etcd said, None if nothing, about the member ``name`` too."""
        self.view = view
        self.last_view = view or self.last_view
        if view and name not in view.candidates and view.leader_revision != self.stood_against:
            self.standing = False  # the candidacy is gone, or its write failed and cannot succeed any more

    def electable(self, name: str) -> bool:
        """Whether failover is on for the member ``name``, as far as etcd has said."""
        return self.last_view is None or name not in self.last_view.switched_off

    def probed(self, now: float) -> tuple[Probe, float]:
        """The leader's last answer, if it is recent, and the seconds since then."""
        answer, at = self.probe
        return (answer if now - at <= PROBE_LIFE else Probe.UNKNOWN), now - at

    def was_suspended(self) -> bool:
        """Whether the machine was suspended in this round: the clock by which leases are counted stood still then."""
        return suspended() - self.slept > PAUSE

    def leads(self, ttl: float) -> int:
        """The epoch that this node leads by its own clock, 0 if none."""
        lease = self.lease
        return lease.epoch if lease is not None and time.monotonic() < lease.sent_at + ttl else 0

    def note(self, step: str, reason: str, seconds: float, outcome: str) -> None:
        """Remember what was done, for the answer to ``converge`` and for the history."""
        view = self.view or self.last_view
        epoch = view.leader.epoch if view and view.leader else 0
        self.steps.append(Step(epoch, step, reason, seconds, outcome))
