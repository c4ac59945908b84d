"""Who takes over when nobody leads.

A candidate first cuts its WAL receiver, so that a half-dead leader gets no more acknowledgements from it, then says
in etcd where its log ends. When enough have said so, the most advanced of them, and only that one, takes the key in
one transaction over all that it compared. The receiver is connected again only after the candidacy is deleted, or
counts nowhere: where whoever has most must not lead, the best that may fetches from there what it lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from chefha_core.model import (
    Candidacy,
    EtcdView,
    Force,
    LeaderKey,
    LeaderState,
    Observation,
    PgState,
    Position,
    Probe,
)
from chefha_core.plan.commands import (
    AskLeader,
    CatchUp,
    Command,
    CutReceiver,
    KillPostgres,
    Plan,
    PostCandidacy,
    StartStandby,
    TakeKey,
    WithdrawCandidacy,
)
from chefha_core.plan.facts import (
    key_age,
    look_again,
    next_timeline,
    why_leader_stands,
    why_nobodys_log,
    why_not_stand,
)
from chefha_core.plan.policy import Policy

#: seconds after which a leader that did not say that it leads is asked again: so early that the answer is there in time
ASK_AGAIN = 0.5


def elect(seen: Observation, policy: Policy) -> Plan | None:
    """The next step of an election; None while the leader stands."""
    etcd, times = seen.etcd, policy.times
    assert etcd is not None
    not_yet, suspicious = why_not_stand(seen, policy), _suspicious(seen, policy)
    if not_yet and not suspicious:
        return None
    asked = _ask(seen, etcd) if suspicious else []
    commands, reason = _step(seen, etcd, policy) if not not_yet else ([], not_yet)
    at = seen.now + min(0.1, times.interval)
    return look_again(seen, policy, [*asked, *commands], "waiting_for_leader", reason, at)


def _suspicious(seen: Observation, policy: Policy) -> bool:
    assert seen.etcd is not None
    key = seen.etcd.leader
    released = key is not None and key.state is LeaderState.RELEASING
    return not released and key_age(seen) >= policy.times.ask_leader_after


def _ask(seen: Observation, etcd: EtcdView) -> list[Command]:
    """The question whether the leader leads; again before the answer is too old."""
    answered = seen.probe in (Probe.SILENT, Probe.DENIES) and seen.probe_age < ASK_AGAIN
    if etcd.leader is None or answered:
        return []
    return [AskLeader("its key gets stale", etcd.leader.name)]


def _step(seen: Observation, etcd: EtcdView, policy: Policy) -> tuple[list[Command], str]:
    """Nobody leads: what this node does about it."""
    pg, key, forced = seen.pg, etcd.leader, _forced(seen, etcd)
    if etcd.config is not None and not etcd.config.failover and not forced:
        return [], "nobody leads, but failover is switched off for the cluster"
    if seen.job:
        return [], f"nobody leads; busy: {seen.job}"
    unable = _why_unable(seen, etcd)
    if unable and seen.name in etcd.candidates:  # or the others would wait for who cannot take over
        return [WithdrawCandidacy(unable)], f"stands no more: {unable}"
    if pg.state is PgState.STOPPED and not pg.damaged:
        if seen.now < seen.retry_at:
            return [], f"nobody leads; PostgreSQL does not start: {pg.problem}"
        return [
            StartStandby("nobody leads: see where its log ends", "")
        ], "nobody leads; starting PostgreSQL to stand for election"
    if pg.state is PgState.HUNG:
        return [KillPostgres("nobody leads, and PostgreSQL does not answer")], "nobody leads; PostgreSQL hangs here"
    if unable:
        return [], f"nobody leads; {unable}"
    if key is not None and key.clean and key.to in ("", seen.name) and _has_it_all(seen, key):
        return [_take(seen, etcd, (), f"{key.name} handed over")], "taking over what was handed over"
    return _stand(seen, etcd, policy)


def _why_unable(seen: Observation, etcd: EtcdView) -> str:
    """Why this node cannot say what it holds, or what it holds is nobody's; "" if it can stand for election."""
    pg, forced = seen.pg, _forced(seen, etcd)
    if pg.state is not PgState.STANDBY or pg.position is None:
        return f"PostgreSQL here is {pg.state} and cannot assert anything"
    foreign = why_nobodys_log(etcd, pg.position)
    return f"this log does not count: {foreign}" if foreign and not (forced and forced.accept_data_loss) else ""


def _stand(seen: Observation, etcd: EtcdView, policy: Policy) -> tuple[list[Command], str]:
    """This node's PostgreSQL answers as a standby: cut its receiver, say where it stands, count."""
    pg = seen.pg
    assert pg.position is not None
    if pg.upstream or pg.receiver:
        return [CutReceiver("nobody leads: acknowledge nothing more")], "standing for election"
    if pg.replaying:
        return [], "replaying what was received before it stands for election"
    own = etcd.candidates.get(seen.name)
    fit = not why_unfit(seen)
    epoch = _epoch(etcd)
    if own is None or (own.epoch, own.position, own.fit) != (epoch, pg.position, fit):
        return [PostCandidacy("its log ends here", epoch, pg.position, fit)], "standing for election"
    return _count(seen, etcd, policy)


def _count(seen: Observation, etcd: EtcdView, policy: Policy) -> tuple[list[Command], str]:
    """This node stands: is it the one?"""
    holds = why_leader_stands(seen, policy)
    if holds:
        return [], f"stands already, but waits to take over: {holds}"
    forced = _forced(seen, etcd)
    if forced is not None:
        return _take_by_force(seen, etcd, forced)
    rule = etcd.sync or policy.sync_rule
    epoch = _epoch(etcd)
    # Who died after it had stood takes nothing over, and its report is gone; there must be a quorum without it, too.
    alive = {*etcd.members, seen.name}.intersection(rule.voters)
    current = [c for c in etcd.candidates.values() if c.epoch == epoch and c.name in alive]
    asserted = tuple(c for c in current if not why_nobodys_log(etcd, c.position))
    if len(asserted) < rule.quorum:
        return [], f"{len(asserted)} of the {rule.quorum} nodes needed stand for election"
    if rule.quorum == 1 and len(asserted) == 1 and seen.now < seen.asserted_at + policy.times.interval:
        return [], "giving the others a moment to stand, who may have more"
    furthest = max(c.position for c in asserted)
    able = sorted(c.name for c in asserted if c.position == furthest and c.fit)
    if not able:
        return _catch_up(seen, etcd, asserted, furthest)
    missing = _missing(etcd.leader, furthest) if not rule.numsync else 0
    if missing > policy.max_behind:
        return [], (
            f"{able[0]} is the most advanced, but lacks {missing} bytes of the leader's log, more than "
            f"max_bytes_behind_leader ({policy.max_behind}): waiting for the old leader"
        )
    if able[0] != seen.name:
        return [], f"{able[0]} is the most advanced ({furthest}) and takes over"
    cause = _cause(etcd.leader) + (f"; {missing} bytes of its log are lost" if missing else "")
    return [_take(seen, etcd, asserted, cause)], f"the most advanced of {len(asserted)}: taking over, {cause}"


def _catch_up(
    seen: Observation, etcd: EtcdView, asserted: Sequence[Candidacy], furthest: Position
) -> tuple[list[Command], str]:
    """None that has everything may lead: the most advanced that may gets from there what it lacks."""
    in_trouble = {name for name, member in etcd.members.items() if member.storage}
    source = min((c.name for c in asserted if c.position == furthest), key=lambda name: (name in in_trouble, name))
    barred = f"{source} has everything, but must not lead"
    best = max((c for c in asserted if c.fit), key=lambda c: c.position, default=None)
    if best is None:
        return [], f"{barred}, and nobody else that stands may"
    if best.name != seen.name:
        return [], f"{barred}; {best.name} fetches it from there"
    why = f"{barred}: fetching it from there"
    return [CatchUp(why, etcd.members[source].address, furthest)], why


def _forced(seen: Observation, etcd: EtcdView) -> Force | None:
    """The request that this node leads without an election, unless it is of an epoch that is over."""
    force = etcd.force
    return force if force is not None and force.to == seen.name and force.epoch == _epoch(etcd) else None


def _take_by_force(seen: Observation, etcd: EtcdView, force: Force) -> tuple[list[Command], str]:
    """Somebody answers for it that this node leads, whoever stands; but not if another is known to have more."""
    further = "" if force.accept_data_loss else who_has_more(etcd, seen.name, seen.pg.position)
    if further:
        return [], f"does not take over by force: {further}"
    cause = f"forced by {force.by}{', accepting that data are lost' if force.accept_data_loss else ''}"
    own = etcd.candidates[seen.name]
    return [dataclasses.replace(_take(seen, etcd, (own,), cause), force=force.mod_revision)], f"taking over, {cause}"


def who_has_more(etcd: EtcdView, name: str, position: Position | None) -> str:
    """Which member has said lately that its log goes further than ``name``'s, which ends at ``position``; "" if none.

    A log that does not count in an election does not here.
    """
    said = {other: report.position for other, report in etcd.members.items()}
    said |= {other: candidacy.position for other, candidacy in etcd.candidates.items()}
    more = [
        f"{other} has {held}"
        for other, held in sorted(said.items())
        if other not in etcd.removed | {name}
        and held is not None
        and (position is None or held > position)
        and not why_nobodys_log(etcd, held)
    ]
    return f"{', '.join(more)}, {name} {position or 'cannot say what it has'}" if more else ""


def why_unfit(seen: Observation) -> str:
    """Why this node must not lead; "" if it may."""
    if not seen.failover:
        return "failover is switched off for this node"
    return seen.unfit or (f"its storage is in trouble: {seen.storage}" if seen.storage else "")


def _take(seen: Observation, etcd: EtcdView, compared: tuple[Candidacy, ...], cause: str) -> TakeKey:
    assert seen.pg.position is not None
    key = etcd.leader
    return TakeKey(
        reason=cause,
        expect=etcd.leader_revision,
        epoch=_epoch(etcd) + 1,
        timeline=next_timeline(etcd, seen.pg.position, *(c.position for c in compared)),
        compared=compared,
        previous=key.name if key else "",
        cause=cause,
    )


def _has_it_all(seen: Observation, key: LeaderKey) -> bool:
    position = seen.pg.position
    if position is None or why_unfit(seen):
        return False
    return position.timeline == key.timeline and position.lsn >= key.lsn


def _missing(key: LeaderKey | None, position: Position) -> int:
    """Bytes that the leader had written at its last renewal and nobody has, where commits wait for nobody."""
    return max(0, key.lsn - position.lsn) if key is not None and key.timeline == position.timeline else 0


def _epoch(etcd: EtcdView) -> int:
    return max(etcd.leader.epoch if etcd.leader else 0, etcd.last_epoch)


def _cause(key: LeaderKey | None) -> str:
    if key is None:
        return "the leader key was gone"
    if key.state is LeaderState.RELEASING:
        return f"{key.name} gave up"
    return f"{key.name} stopped renewing its key"
