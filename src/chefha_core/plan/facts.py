"""Questions about an observation that more than one rule asks."""

from __future__ import annotations

from collections.abc import Sequence

from chefha_core.model import (
    EtcdView,
    LeaderState,
    MemberReport,
    Observation,
    PgFacts,
    PgState,
    Position,
    Probe,
    TimelineSwitch,
)
from chefha_core.plan.commands import Command, Plan
from chefha_core.plan.policy import Policy

#: steps between the timelines of two leaders
APART = 4


def names_me(seen: Observation) -> bool:
    """True if the leader key in etcd names this node."""
    return seen.etcd is not None and seen.etcd.leader is not None and seen.etcd.leader.name == seen.name


def lease_ends(seen: Observation, policy: Policy) -> float:
    """Own clock, when this node must have stopped leading; 0 without a lease."""
    return seen.lease.sent_at + policy.times.ttl if seen.lease else 0.0


def key_age(seen: Observation) -> float:
    """Seconds for which this node has seen no change of the leader key."""
    return seen.now - seen.etcd.leader_changed_at if seen.etcd else 0.0


def why_leader_stands(seen: Observation, policy: Policy) -> str:
    """Why nobody may take the key from its holder now; "" if one may.

    Two signals are asked for: the key is stale *and* its holder does not say that it leads.
    """
    return _why_undisputed(seen, policy, policy.times.stale_after)


def why_not_stand(seen: Observation, policy: Policy) -> str:
    """Why this node does not stand for election; "" if it does, which may be before it may take the key.

    Where commits wait for a second node, a receiver that is cut too early costs a pause and never a commit. There is no
    such head start where they do not wait, for what is committed while the old leader still has the VIP would be lost,
    nor after a key that was deleted.
    """
    assert seen.etcd is not None
    early = seen.etcd.leader is not None and (seen.etcd.sync or policy.sync_rule).numsync
    return _why_undisputed(seen, policy, policy.times.stand_after if early else policy.times.stale_after)


def _why_undisputed(seen: Observation, policy: Policy, limit: float) -> str:
    assert seen.etcd is not None
    key, age = seen.etcd.leader, key_age(seen)
    if seen.now < seen.promised_until:
        return "this node promised the leader not to run for election while etcd has no quorum"
    if key is not None and key.state is LeaderState.RELEASING:
        if key.to and key.to != seen.name and age < policy.times.yield_after:
            return f"{key.name} hands over to {key.to}"
        return ""
    if age < limit:
        return f"{key.name} leads" if key else f"the leader key is gone since {age:.1f} s; its holder has {limit:.1f} s"
    if key is not None and seen.probe is Probe.LEADS:
        return f"{key.name} has not renewed its key for {age:.1f} s, but answers that it leads"
    if key is not None and seen.probe is Probe.UNKNOWN:
        return f"{key.name} has not renewed its key for {age:.1f} s and is being asked"
    return ""


def others_stand_by(seen: Observation) -> bool:
    """True if somebody else could be elected, and may be."""
    etcd = seen.etcd
    assert etcd is not None
    elects = etcd.config is None or etcd.config.failover
    return elects and any(n != seen.name and _stands_by(etcd, m) for n, m in etcd.members.items())


def _stands_by(etcd: EtcdView, report: MemberReport) -> bool:
    """True for a standby of the cluster's present data (that from before a restoration never leads) on a sound disk."""
    present = etcd.config is None or report.system_id not in etcd.config.former
    return report.pg is PgState.STANDBY and present and not report.storage


def diverged(pg: PgFacts, history: Sequence[TimelineSwitch]) -> str:
    """Why this data is not an ancestor of the log with ``history``, whose last row is the present timeline and its end;
    "" if it is, or if nothing is known."""
    if pg.position is None or not history:
        return ""
    mine = pg.position
    for switch in history:
        if switch.timeline == mine.timeline:
            if mine.lsn > switch.lsn:
                return f"its log goes to {mine}, the leader left timeline {mine.timeline} before that"
            return ""
    return f"its log goes to {mine}, and the leader never was on timeline {mine.timeline}"


def why_nobodys_log(etcd: EtcdView, position: Position) -> str:
    """Why a log that ends at ``position`` does not count in an election; "" if it does.

    Positions compare by timeline first, which is right only for timelines that an election gave to a leader. Whoever
    promotes by hand gets a higher timeline and not one of the writes acknowledged since then.
    """
    if not etcd.timelines or position.timeline in etcd.timelines:
        return ""
    return (
        why_etcd_is_older(etcd, position)
        or f"timeline {position.timeline} was never given to a leader: somebody promoted by hand"
    )


def why_etcd_is_older(etcd: EtcdView, position: Position | None) -> str:
    """Why what etcd says is of a time before this data, as after it was restored from a snapshot; "" if it is not.

    Nobody may lead by it, nor lose data to who does: what was acknowledged since then may be on the other nodes alone.
    Whoever promotes by hand takes the next numbers, and does not get as far as the next leader's.
    """
    newest = max(etcd.timelines, default=0)
    if position is None or not newest or position.timeline < newest + APART:
        return ""
    return (
        f"the data here is of timeline {position.timeline}, and etcd knows none after {newest}: etcd is older than the "
        "data (restored from a snapshot?); restore a newer one"
    )


def next_timeline(etcd: EtcdView, *positions: Position) -> int:
    """A timeline for a new leader, and not one that pg_promote by hand chooses, which takes the next number."""
    known = [etcd.last_timeline, *(position.timeline for position in positions), *etcd.timelines]
    return max(known + ([etcd.leader.timeline] if etcd.leader else [])) + APART


def look_again(
    seen: Observation, policy: Policy, commands: Sequence[Command], role: str, reason: str, at: float | None = None
) -> Plan:
    """A plan that wakes after an interval, when the leader key gets stale, or at ``at``, whichever comes first."""
    times = policy.times
    wakes = [seen.now + times.interval]
    if seen.etcd is not None and not names_me(seen):
        since = seen.etcd.leader_changed_at
        due = (times.ask_leader_after, times.stand_after + 0.001, times.stale_after + 0.001)
        wakes += [since + after for after in due if since + after > seen.now]
    if at is not None:
        wakes.append(at)
    return Plan(tuple(commands), role, reason, min(wakes))
