"""Stream from the leader, and get back to where that is possible."""

from __future__ import annotations

from chefha_core.model import LeaderState, Observation, PgState
from chefha_core.plan.commands import (
    Clone,
    Command,
    Follow,
    KillPostgres,
    Plan,
    Restart,
    Rewind,
    Slots,
    StartStandby,
    WithdrawCandidacy,
)
from chefha_core.plan.facts import diverged, look_again, why_etcd_is_older
from chefha_core.plan.policy import Policy

#: failed rewinds after which a fresh base backup is made
REWINDS = 2
#: seconds after which a stream that does not come, although the leader answers and has the log, is helped by a new
#: start; twice as many each time that it was in vain, up to about an hour
STALLED, DOUBLINGS = 30.0, 7
#: vain new starts after which it is helped by a base backup
NEW_STARTS = 2
#: seconds after which people are told where to look
NOTEWORTHY = 10.0


def follow(seen: Observation, policy: Policy) -> Plan | None:
    """Somebody else leads: what is missing to stream from there."""
    assert seen.etcd is not None
    leader = seen.etcd.leader
    if leader is None:
        return None
    role = "follower" if seen.pg.state is PgState.STANDBY else "waiting_for_leader"
    older = why_etcd_is_older(seen.etcd, seen.pg.position)
    if older:
        return look_again(seen, policy, (), "blocked", older)
    if seen.name in seen.etcd.candidates:
        why = f"{leader.name} leads: this node stands no more"
        return look_again(seen, policy, [WithdrawCandidacy(why)], role, why, seen.now)
    if seen.job:
        return look_again(seen, policy, (), role, f"busy: {seen.job}")
    upstream = policy.members.get(leader.name)
    if upstream is None:
        why = f"etcd says that {leader.name} leads, which the pillar does not name"
        return look_again(seen, policy, (), role, why)
    command, reason = _next(seen, policy, upstream, leader.name)
    return look_again(seen, policy, [command] if command else [], role, reason, seen.now + 0.5 if command else None)


def _next(seen: Observation, policy: Policy, upstream: str, leader: str) -> tuple[Command | None, str]:
    pg = seen.pg
    if pg.state is PgState.STANDBY:
        return _while_running(seen, upstream, leader)
    if pg.state is PgState.HUNG:
        return KillPostgres("PostgreSQL does not answer"), "PostgreSQL does not answer: ending it"
    if pg.state is PgState.STARTING:
        return _while_starting(seen, policy, upstream, leader)
    if pg.state is PgState.PRIMARY:
        return None, "PostgreSQL is primary"
    if seen.now < seen.retry_at:
        return (
            None,
            f"following {leader} failed: {pg.problem}; next attempt in {seen.retry_at - seen.now:.0f} s",
        )
    if pg.state is PgState.EMPTY or pg.damaged:
        return if_leading(seen, Clone(f"no usable data here: base backup of {leader}", upstream))
    if seen.failed_rejoins > REWINDS:
        return if_leading(seen, Clone(f"PostgreSQL does not start here: {pg.problem or 'see its log'}", upstream))
    if not pg.was_primary or _ended_cleanly(seen):
        return StartStandby(f"{leader} leads", upstream), f"starting to follow {leader}"
    if pg.clean and not pg.upstream_history:
        return None, f"waiting for {leader} to tell its history"
    return _repair(seen, upstream, "was a primary and may hold what the leader never had")


def _while_starting(seen: Observation, policy: Policy, upstream: str, leader: str) -> tuple[Command | None, str]:
    pg, patience = seen.pg, max(policy.times.start_timeout, _patience(seen))
    if pg.upstream != upstream and not (pg.was_primary or seen.storage_hangs):
        return Follow(f"{leader} leads", upstream), f"pointing to {leader}, without whose log it may not get up"
    restarted = 0 < seen.new_starts <= NEW_STARTS  # and not cloned, when it has a base backup's log to replay
    if restarted and pg.since >= patience and pg.redo_bytes <= policy.restart_max_redo:
        return _clone_stalled(seen, upstream, f"PostgreSQL was started anew and was not up after {patience:.0f} s")
    return None, "PostgreSQL is starting"


def _while_running(seen: Observation, upstream: str, leader: str) -> tuple[Command | None, str]:
    pg = seen.pg
    points_there = pg.upstream == upstream and pg.by_slot
    if not points_there and seen.storage_hangs:
        return None, f"not pointed to {leader} yet: a write to its storage does not come back"
    if not points_there:
        return Follow(f"{leader} leads", upstream), f"pointing to {leader}"
    if pg.streaming:
        stale = tuple(sorted(pg.slots))
        if stale:
            return Slots("a follower keeps no log for others", ()), f"follows {leader}"
        return None, f"follows {leader}"
    why = diverged(pg, pg.upstream_history)
    if why and seen.now >= seen.retry_at:
        return _repair(seen, upstream, why)
    if pg.log_gone and not pg.replaying and seen.now >= seen.retry_at:
        return if_leading(seen, Clone(f"{leader} has not the log any more that is needed here", upstream))
    stalled = _stalled(seen, upstream, leader)
    if stalled is not None:
        return stalled
    why = pg.problem
    if not why and pg.upstream_history and not pg.replaying and pg.without_stream >= NOTEWORTHY:
        why = f"{leader} answers; PostgreSQL's own log has the reason (journalctl -u chefha-postgresql)"
    return None, f"not streaming from {leader} yet{': ' + why if why else ''}"


def _stalled(seen: Observation, upstream: str, leader: str) -> tuple[Command | None, str] | None:
    """Everything is there to stream, and no stream comes: nobody asks for it, or for log that leads nowhere."""
    pg, patience = seen.pg, _patience(seen)
    if pg.without_stream < patience or not pg.upstream_history or pg.replaying or seen.now < seen.retry_at:
        return None
    why = f"{leader} answers, and nothing was streamed from it for {patience:.0f} s"
    if seen.new_starts < NEW_STARTS:
        return if_leading(seen, Restart(why, upstream, seen.new_starts + 1))
    return _clone_stalled(seen, upstream, f"{why}, as before it was started anew")


def _clone_stalled(seen: Observation, upstream: str, why: str) -> tuple[Command | None, str]:
    return if_leading(seen, Clone(why, upstream, max(seen.new_starts, NEW_STARTS) + 1))


def _patience(seen: Observation) -> float:
    return float(STALLED * 2 ** min(seen.new_starts, DOUBLINGS))


def _ended_cleanly(seen: Observation) -> bool:
    """A former leader that has nothing which the present one has not."""
    pg = seen.pg
    known = pg.clean and pg.upstream_history
    return bool(known and not diverged(pg, pg.upstream_history) and not _on_leaders_timeline(seen))


def _on_leaders_timeline(seen: Observation) -> bool:
    """That was given to the leader alone. Who was a primary on it, or is ahead on it, was made one by hand; pg_rewind,
    which goes by timelines, finds nothing to do, and positions prove nothing.
    """
    assert seen.etcd is not None and seen.etcd.leader is not None
    return seen.pg.position is not None and seen.pg.position.timeline == seen.etcd.leader.timeline


def _repair(seen: Observation, upstream: str, why: str) -> tuple[Command | None, str]:
    """Rewind, and after failures clone; only from a leader whose checkpoint is on its own timeline."""
    if _on_leaders_timeline(seen):
        return if_leading(seen, Clone(f"{why}; pg_rewind does not tell logs of one timeline apart", upstream))
    if seen.failed_rejoins >= REWINDS:
        return if_leading(seen, Clone(f"{why}; rewinding failed {seen.failed_rejoins} times", upstream))
    return if_leading(seen, Rewind(why, upstream))


def if_leading(seen: Observation, command: Command) -> tuple[Command | None, str]:
    """``command`` once the leader leads and has made its first checkpoint, or what is waited for."""
    assert seen.etcd is not None and seen.etcd.leader is not None
    leader = seen.etcd.leader
    report = seen.etcd.members.get(leader.name)
    if leader.state is not LeaderState.LEADING:
        return None, f"waiting until {leader.name} leads"
    if seen.storage:  # nothing that replaces data begins on storage that may not take it
        return None, f"waiting until its storage is well: {seen.storage}"
    primary = report is not None and report.pg is PgState.PRIMARY
    if report is None or not primary or report.checkpoint_timeline != leader.timeline:
        return None, f"waiting for {leader.name}'s first checkpoint as leader"
    return command, command.reason
