"""Planned hand-over, as its leader sees it: checkpoint, wait until the follower has caught up, withdraw the VIP, stop
cleanly, release the key to the follower. Each step is planned from what is true, so a crash between two is harmless:
until the key is released the old leader leads on, afterwards the new one, or the old one again if nobody came.
"""

from __future__ import annotations

from chefha_core.model import EtcdView, LeaderKey, MemberReport, Observation, PgState
from chefha_core.plan.commands import (
    Checkpoint,
    ClearIntent,
    Command,
    DropAddress,
    EndClientSessions,
    ReleaseKey,
    StopPostgres,
)
from chefha_core.plan.policy import Policy

Step = tuple[list[Command], str]
#: bytes by which the follower's last report may be behind when the leader stops; the stop sends the rest
CLOSE = 16 << 20


def prepare(seen: Observation, policy: Policy, key: LeaderKey) -> Step | None:
    """While PostgreSQL runs: the next step of a hand-over that somebody asked for; None if nobody did."""
    etcd = seen.etcd
    assert etcd is not None
    intent = etcd.intent
    if intent is None:
        return None
    if intent.epoch != key.epoch:
        return [
            ClearIntent("asked of an earlier leader", intent.to, intent.epoch, "a new leader came in between")
        ], "leads"
    if seen.now > etcd.intent_seen_at + policy.times.handover_timeout:
        why = f"not possible within {policy.times.handover_timeout:g} s"
        return [ClearIntent(why, intent.to, intent.epoch, why)], f"keeps leading: hand-over {why}"
    if seen.job == StopPostgres.__name__ and seen.prepared_for == intent.mod_revision:
        return [], "hand-over: stopping"  # a follower sees its end before this node does, and streams no more
    to = intent.to or best(seen, etcd, policy)
    why = why_not(etcd, policy, to) if to else "no follower is eligible"
    if why:
        return [ClearIntent(why, intent.to, intent.epoch, why)], f"keeps leading: {why}"
    if seen.job:
        return [], f"hand-over to {to}: {seen.job}"
    if seen.prepared_for != intent.mod_revision:
        return [Checkpoint(f"before the hand-over to {to}, so that the stop is fast", prepares=intent.mod_revision)], (
            f"hand-over to {to}: checkpoint"
        )
    behind = _behind(seen, etcd.members[to])
    if behind > CLOSE:
        return [], f"hand-over: waiting until {to} has caught up ({behind >> 20} MiB)"
    reason = f"hand-over to {to}, asked for by {intent.by}"
    return [DropAddress(reason), EndClientSessions(reason), StopPostgres(reason)], f"{reason}: stopping"


def release(seen: Observation, key: LeaderKey) -> Step | None:
    """PostgreSQL is stopped for a hand-over: give the key to the follower; None if there is none to do."""
    etcd = seen.etcd
    assert etcd is not None
    intent = etcd.intent
    if intent is None or intent.epoch != key.epoch or seen.prepared_for != intent.mod_revision:
        return None
    if seen.pg.state is not PgState.STOPPED or not seen.pg.clean or seen.pg.position is None:
        why = f"PostgreSQL did not stop cleanly ({seen.pg.state})"
        return [ClearIntent(why, intent.to, intent.epoch, why)], f"keeps leading: {why}"
    reason = f"hand-over asked for by {intent.by}"
    to = intent.to or _released_to(seen, etcd)
    return [
        ReleaseKey(reason, etcd.leader_revision, key.epoch, key.timeline, seen.pg.position.lsn, to=to, clean=True)
    ], f"released the key to {to or 'whoever has everything'}"


def why_not(etcd: EtcdView, policy: Policy, to: str) -> str:
    """Why the leader does not hand over to ``to``; "" if it does. The verb asks the same before it asks the leader."""
    report = etcd.members.get(to)
    if etcd.config is not None and not etcd.config.failover:
        return "failover is switched off for the cluster"
    if to in etcd.removed:
        return f"{to} was removed from the cluster"
    if etcd.sync is not None and to not in etcd.sync.voters:
        return f"{', '.join(etcd.sync.voters)} alone has everything yet, and {to} is still catching up"
    lsn = etcd.leader.lsn if etcd.leader else 0
    return why_not_eligible(report, to, lsn, policy.max_behind, policy.search_fatal)


def why_not_eligible(
    report: MemberReport | None, name: str, leader_lsn: int, max_behind: int, search_fatal: bool
) -> str:
    """Why a follower cannot take over by plan, from its own report; "" if it can."""
    if report is None:
        return f"{name} has not reported lately: it is down, or cut off"
    if not report.failover:
        return f"failover is switched off for {name}"
    if search_fatal and report.search == "offline":
        return f"search on {name} is offline, and chefha:leaderl:health_check:search_fatal is on"
    if report.storage:
        return f"the storage of {name} is in trouble: {report.storage}"
    if report.pg is not PgState.STANDBY:
        return f"PostgreSQL on {name} is {report.pg}, not a standby"
    if not report.streaming or report.position is None:
        return f"{name} does not stream from the leader{': ' + report.reason if report.reason else ''}"
    behind = leader_lsn - report.position.lsn
    if behind > max_behind:
        return f"{name} is {behind} bytes behind the leader, more than max_bytes_behind_leader ({max_behind})"
    return ""


def best(seen: Observation, etcd: EtcdView, policy: Policy) -> str:
    """The eligible follower that is the least behind, "" if there is none."""
    able = [n for n in sorted(etcd.members) if n != seen.name and not why_not(etcd, policy, n)]
    return min(able, key=lambda n: _behind(seen, etcd.members[n]), default="")


def _released_to(seen: Observation, etcd: EtcdView) -> str:
    streaming = [n for n, m in sorted(etcd.members.items()) if n != seen.name and m.pg is PgState.STANDBY]
    return streaming[0] if len(streaming) == 1 else ""


def _behind(seen: Observation, report: MemberReport) -> int:
    mine = seen.pg.position.lsn if seen.pg.position else 0
    return mine - (report.position.lsn if report.position else 0)
