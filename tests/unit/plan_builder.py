"""Observations for the planner's tests: a healthy cluster, of which a test changes what it is about."""

from __future__ import annotations

import dataclasses
from typing import Any

from chefha_core.model import (
    Candidacy,
    ClusterConfig,
    EtcdView,
    LeaderKey,
    LeaderState,
    Lease,
    MemberReport,
    Observation,
    PgFacts,
    PgState,
    Position,
    TimelineSwitch,
)
from chefha_core.plan import plan
from chefha_core.plan.commands import Command, Plan
from chefha_core.plan.policy import Policy, policy
from chefha_core.settings import Secrets, Settings

NOW = 1000.0
MEMBERS = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
SETTINGS = Settings(members=dict(MEMBERS), vip="10.0.0.9", secrets=Secrets("s", "r", "t"), profile="fast")
POLICY: Policy = policy(SETTINGS)
ASYNC: Policy = dataclasses.replace(POLICY, durability="async")
TIMES = POLICY.times
HERE = Position(1, 100)

KEY = LeaderKey("a", 3, LeaderState.LEADING, timeline=1, lsn=100, beat=7)


def report(name: str, **fields: Any) -> MemberReport:
    """A follower that streams."""
    return MemberReport(
        **{
            "name": name,
            "address": MEMBERS[name],
            "pg": PgState.STANDBY,
            "role": "follower",
            "position": HERE,
            "streaming": True,
            "checkpoint_timeline": 1,
            **fields,
        }
    )


def view(**fields: Any) -> EtcdView:
    """etcd as a healthy cluster led by ``a`` has it."""
    base = EtcdView(
        revision=50,
        leader=KEY,
        leader_revision=40,
        leader_changed_at=NOW - 0.2,
        members={
            "a": report("a", pg=PgState.PRIMARY, role="leader", streaming=False),
            "b": report("b"),
            "c": report("c"),
        },
        config=ClusterConfig("system-1"),
        initialiser="a",
        sync=POLICY.sync_rule,
        last_epoch=3,
        last_timeline=1,
        timelines=frozenset({1}),
    )
    return dataclasses.replace(base, **fields)


def primary(**fields: Any) -> PgFacts:
    """The leader's PostgreSQL."""
    base = PgFacts(
        state=PgState.PRIMARY,
        system_id="system-1",
        position=HERE,
        was_primary=True,
        checkpoint_timeline=1,
        sync_names=("b", "c"),
        slots={"b": True, "c": True},
    )
    return dataclasses.replace(base, **fields)


def standby(**fields: Any) -> PgFacts:
    """A follower's PostgreSQL, streaming from ``a``."""
    base = PgFacts(
        state=PgState.STANDBY,
        system_id="system-1",
        position=HERE,
        upstream=MEMBERS["a"],
        receiver=True,
        streaming=True,
        checkpoint_timeline=1,
    )
    return dataclasses.replace(base, **fields)


def stopped(**fields: Any) -> PgFacts:
    """No postmaster."""
    return dataclasses.replace(standby(state=PgState.STOPPED, receiver=False, streaming=False), **fields)


def leader(**fields: Any) -> Observation:
    """``a``, which leads."""
    base = Observation(
        now=NOW, name="a", etcd=view(), last_etcd=view(), pg=primary(), lease=Lease(3, NOW - 0.2), address=True
    )
    return dataclasses.replace(base, **fields)


def follower(name: str = "b", **fields: Any) -> Observation:
    """``b`` or ``c``, which follows."""
    base = Observation(now=NOW, name=name, etcd=view(), last_etcd=view(), pg=standby())
    return dataclasses.replace(base, **fields)


def cut(**fields: Any) -> PgFacts:
    """A standby whose receiver is cut."""
    return standby(**{"upstream": "", "receiver": False, "streaming": False, **fields})


def stale(**fields: Any) -> EtcdView:
    """etcd with a leader key that nobody has renewed for long enough."""
    return view(**{"leader_changed_at": NOW - TIMES.stale_after - 0.01, **fields})


def stands(name: str, position: Position = HERE, epoch: int = 3, fit: bool = True) -> Candidacy:
    """A candidacy in etcd."""
    return Candidacy(name, epoch, position, fit, mod_revision=60)


def released(**fields: Any) -> EtcdView:
    """etcd with a key that ``a`` gave up."""
    key = dataclasses.replace(KEY, state=LeaderState.RELEASING, **fields)
    return view(leader=key, leader_changed_at=NOW - 0.1)


HISTORY_OF_NEW_LEADER = (TimelineSwitch(1, 90), TimelineSwitch(5, 200))


def decide(seen: Observation, how: Policy = POLICY) -> Plan:
    """The plan."""
    return plan(seen, how)


def kinds(seen: Observation, how: Policy = POLICY) -> list[type[Command]]:
    """The plan's commands by their kind."""
    return [type(command) for command in plan(seen, how).commands]


def only(found: Plan, kind: type[Any]) -> Any:
    """The one command of this kind."""
    (command,) = [command for command in found.commands if isinstance(command, kind)]
    return command
