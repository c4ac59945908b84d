"""What is measured, as a table: one row per scenario, its faults, and what to wait for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from lab.topology import MASTER


class Target(Enum):
    """Whom a fault strikes."""

    LEADER = "the leader"
    FOLLOWER = "a follower"
    MASTER = "the Salt master"

    def node(self, leader: str, follower: str) -> str:
        """The node's name in a cluster with this leader and this follower."""
        return {Target.LEADER: leader, Target.FOLLOWER: follower, Target.MASTER: MASTER.name}[self]


@dataclass(frozen=True)
class Scenario:
    """One row. `faults` (kind of the lab, target) strike in this order; without any it is a hand-over or quiet."""

    name: str
    sentence: str
    faults: tuple[tuple[str, Target], ...] = ()
    hand_over: bool = False
    #: whether another one must take over; otherwise the run goes on for `seconds` under load
    takes_over: bool = True
    seconds: float = 6.0
    #: strikes what only chefha has
    own: bool = False


def _on_leader(kind: str, sentence: str, takes_over: bool = True, own: bool = False) -> Scenario:
    return Scenario(kind, sentence, ((kind, Target.LEADER),), takes_over=takes_over, own=own)


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("quiet", "no fault: what the probe itself and the machine's noise cost", takes_over=False),
        Scenario("hand-over", "planned hand-over to a follower", hand_over=True),
        _on_leader("kill-host", "the leader's machine loses its power"),
        _on_leader("pause-host", "the leader's machine is frozen"),
        _on_leader("kill-postgres", "the leader's PostgreSQL is killed", takes_over=False),
        _on_leader("stop-postgres", "the leader's PostgreSQL hangs", takes_over=False),
        _on_leader("kill-leaderl", "the leader's leaderl is killed", takes_over=False, own=True),
        _on_leader("keep-leaderl-dead", "the leader's leaderl is killed and stays dead", own=True),
        _on_leader("stop-leaderl", "the leader's leaderl hangs", own=True),
        _on_leader("isolate", "the leader is cut from everything"),
        _on_leader("cut-peers", "the leader is cut from the other back ends"),
        _on_leader("cut-etcd", "the leader is cut from the others' etcd"),
        Scenario("follower-lost", "a follower's machine loses its power",
                 (("kill-host", Target.FOLLOWER),), takes_over=False),
        Scenario("kill-master", "the Salt master's machine loses its power",
                 (("kill-master", Target.MASTER),), takes_over=False, own=True),
        Scenario("no-master", "every master is dead, then the leader's machine loses its power",
                 (("kill-master", Target.MASTER), ("kill-host", Target.LEADER)), own=True),
    )
}  # fmt: skip
