"""Stop what only a leader may do, as soon as this node is not sure to be it."""

from __future__ import annotations

from chefha_core.model import EtcdView, LeaderState, Observation, PgState
from chefha_core.plan import durability
from chefha_core.plan.commands import (
    AskFailsafe,
    Command,
    DropAddress,
    EndClientSessions,
    HoldAddress,
    KillPostgres,
    Plan,
)
from chefha_core.plan.facts import lease_ends, look_again, names_me
from chefha_core.plan.policy import Policy


def without_etcd(seen: Observation, policy: Policy) -> Plan | None:
    """No quorum of etcd answers: lead until the lease ends, on by failsafe, or stop."""
    if seen.etcd is not None:
        return None
    ends, times = lease_ends(seen, policy), policy.times
    if seen.lease is None or seen.paused or seen.now >= ends:
        why = "etcd does not answer with a quorum"
        return look_again(seen, policy, stop_leading(seen, why), _role(seen), f"{why}; not leading until it does")
    commands: list[Command] = []
    if seen.pg.state is PgState.PRIMARY:
        if seen.now - seen.lease.sent_at >= times.failsafe_after:
            commands.append(AskFailsafe("etcd has no quorum: every member must agree", seen.lease.epoch))
        if seen.address:
            commands.append(HoldAddress("the lease still runs", times.address, take=False, check=False))
        elif _led(seen, policy):
            commands.append(HoldAddress("the lease runs again", times.address, take=True, check=True))
    elif seen.address:
        commands.append(DropAddress(f"PostgreSQL is {seen.pg.state}"))
    wake = min(seen.now + times.interval / 2, ends)
    return look_again(seen, policy, commands, "leader", "etcd does not answer; leading on the lease that is left", wake)


def _led(seen: Observation, policy: Policy) -> bool:
    """True if this node led as a durable primary when etcd last answered: only then it takes the address without."""
    last, pg = seen.last_etcd, seen.pg
    key = last.leader if last else None
    if last is None or key is None or key.name != seen.name or key.state is not LeaderState.LEADING:
        return False
    durable = durability.enforced(last.sync or policy.sync_rule, pg.sync_names, seen.name)
    return durable and pg.position is not None and pg.position.timeline == key.timeline


def foreign_data(seen: Observation, policy: Policy) -> Plan | None:
    """A data directory with another system identifier is reported and left alone."""
    assert seen.etcd is not None
    config = seen.etcd.config
    known = {config.system_id, *config.former} if config else set()
    if config is None or not seen.pg.system_id or seen.pg.system_id in known:
        return None
    reason = (
        f"the data directory belongs to another cluster (system identifier {seen.pg.system_id}, this cluster has "
        f"{config.system_id}); move it away, then this node clones the leader"
    )
    commands = stop_leading(seen, reason)
    return look_again(seen, policy, commands, "blocked", reason)


def removed(seen: Observation, policy: Policy) -> Plan | None:
    """A member that was taken out of the cluster does nothing in it until somebody lets it in again."""
    assert seen.etcd is not None
    if seen.name not in seen.etcd.removed:
        return None
    reason = "removed from the cluster by remove-node; chef-backend-ctl join-cluster --recovery lets it in again"
    return look_again(seen, policy, stop_leading(seen, reason), "removed", reason)


def not_leader(seen: Observation, policy: Policy) -> Plan | None:
    """etcd answers, and does not name this node: hold neither the address nor a running primary."""
    assert seen.etcd is not None
    if names_me(seen):
        return None
    if seen.etcd.leader is None and seen.lease is not None and seen.pg.state is PgState.PRIMARY:
        return None  # somebody deleted the key: its holder writes it again (lead)
    leader = seen.etcd.leader.name if seen.etcd.leader else "nobody"
    commands = stop_leading(seen, f"etcd says that {leader} leads")
    if not commands:
        return None
    return look_again(seen, policy, commands, "deposed_leader", f"etcd says that {leader} leads", seen.now)


def stop_leading(seen: Observation, why: str) -> list[Command]:
    """Stop a primary before it can acknowledge anything more, withdraw the address, cut the clients.

    The kill goes on by itself and comes first: whatever hangs in the other two must not keep it from happening.
    """
    primary = seen.pg.state is PgState.PRIMARY or (seen.pg.was_primary and seen.pg.state in _MAYBE_PRIMARY)
    commands: list[Command] = [KillPostgres(why)] if primary else []
    if seen.address:
        commands.append(DropAddress(why))
    return commands + ([EndClientSessions(why)] if primary else [])


_MAYBE_PRIMARY = (PgState.STARTING, PgState.HUNG)


def failsafe_answer(view: EtcdView | None, last: EtcdView | None, name: str, leader: str, epoch: int) -> str:
    """Why this node refuses the leader's wish to go on without etcd; "" to agree, which is a promise."""
    if view is not None:
        return f"etcd answers {name} with a quorum: renew the key there"
    if last is None or last.leader is None:
        return f"{name} knows no leader"
    if (last.leader.name, last.leader.epoch) != (leader, epoch):
        return f"{name} knows {last.leader.name} as leader of epoch {last.leader.epoch}"
    if name in last.candidates:
        return f"{name} has cut its WAL receiver and stands for election"
    return ""


def _role(seen: Observation) -> str:
    return "waiting_for_leader" if seen.pg.state is not PgState.STANDBY else "follower"
