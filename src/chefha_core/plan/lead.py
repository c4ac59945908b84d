"""etcd names this node: renew the key, be a writable primary, hold the VIP; hand over or give up where stuck."""

from __future__ import annotations

from chefha_core.model import EtcdView, LeaderKey, LeaderState, Observation, PgState, Position, SyncRule
from chefha_core.plan import durability, handover, restore, storage
from chefha_core.plan.commands import (
    Checkpoint,
    ClearRestore,
    Command,
    DropAddress,
    HoldAddress,
    KillPostgres,
    Plan,
    Promote,
    PublishRestore,
    PublishSync,
    ReleaseKey,
    Renew,
    Slots,
    StartPrimary,
    StartStandby,
    StopPostgres,
    WithdrawCandidacy,
)
from chefha_core.plan.election import why_unfit
from chefha_core.plan.facts import (
    lease_ends,
    look_again,
    names_me,
    next_timeline,
    others_stand_by,
    why_etcd_is_older,
    why_leader_stands,
)
from chefha_core.plan.fence import stop_leading
from chefha_core.plan.policy import Policy

#: seconds after the take-over in which the disk is left to the first commits
SETTLE = 1.0
#: starts of a dead PostgreSQL on the leader before it gives up
RESTARTS = 2


def lead(seen: Observation, policy: Policy) -> Plan | None:
    """What this leader does next; None if etcd does not name this node."""
    etcd = seen.etcd
    assert etcd is not None
    if not names_me(seen) and not (etcd.leader is None and seen.lease and seen.pg.state is PgState.PRIMARY):
        return None
    key = etcd.leader or _lost_key(seen)
    if key.state is LeaderState.RELEASING and not restore.revives(seen, policy):
        return _released(seen, policy, key)
    if seen.name in etcd.candidates:
        why = "the new leader stands no more"
        return look_again(seen, policy, [WithdrawCandidacy(why)], "promoting", why, seen.now)
    older = why_etcd_is_older(etcd, seen.pg.position)
    if older and (seen.pg.state is not PgState.PRIMARY or seen.lease is None):
        return look_again(seen, policy, stop_leading(seen, older), "blocked", older)
    if seen.lease is None or seen.lease.epoch != key.epoch or seen.paused or seen.now >= lease_ends(seen, policy):
        return _regain(seen, policy, key)
    step = restore.step(seen, policy, key)
    if step is not None:
        return _restoring(seen, policy, key, *step)
    given_up = storage.give_up(seen, policy, key)
    if given_up is not None:  # not renewed first: that would change the revision which it compares
        return look_again(seen, policy, given_up[0], "leader", given_up[1], seen.now)
    if seen.pg.state is PgState.PRIMARY:
        return _as_primary(seen, policy, key)
    return _without_primary(seen, policy, key)


def _restoring(seen: Observation, policy: Policy, key: LeaderKey, step: list[Command], reason: str) -> Plan:
    """The key is kept while PostgreSQL is stopped and its data exchanged."""
    publishes = any(isinstance(command, PublishRestore) for command in step)  # which compares the key's revision
    commands = [] if publishes else _renewal(seen, policy, key, key.state)
    refused = any(isinstance(command, ClearRestore) for command in step)
    if seen.address and not refused:
        commands.append(DropAddress(reason))
    return look_again(seen, policy, [*commands, *step], "leader", reason, seen.now + 0.05)


def _lost_key(seen: Observation) -> LeaderKey:
    """The key as its holder would have it, for a holder that finds it deleted."""
    assert seen.lease is not None and seen.pg.position is not None
    return LeaderKey(seen.name, seen.lease.epoch, LeaderState.LEADING, seen.pg.position.timeline)


def _regain(seen: Observation, policy: Policy, key: LeaderKey) -> Plan:
    """No valid lease although the key names this node: nothing is held until the key is written again."""
    why = (
        "this machine was paused"
        if seen.paused
        else "the lease had ended"
        if seen.lease
        else "leaderl has just started"
    )
    commands: list[Command] = []
    if seen.address and (seen.lease is not None or seen.paused):
        commands.append(DropAddress(why))
    commands.append(_renew(seen, key, key.state, why))
    return look_again(seen, policy, commands, "leader", f"{why}: renewing the key before anything else", seen.now)


def _as_primary(seen: Observation, policy: Policy, key: LeaderKey) -> Plan:
    """PostgreSQL is writable: keep key and address, look after followers, hand over if asked."""
    assert seen.etcd is not None and seen.pg.position is not None
    if seen.pg.position.timeline < key.timeline and key.state is LeaderState.PROMOTING:
        why = f"it is a primary on timeline {seen.pg.position.timeline}, which is not the one it leads on"
        return look_again(seen, policy, [StopPostgres(why)], "promoting", why, seen.now + 0.1)
    commands = _renewal(seen, policy, key, LeaderState.LEADING)
    step = handover.prepare(seen, policy, key)
    if step is not None:
        return look_again(seen, policy, [*commands, *step[0]], "leader", step[1], seen.now + 0.05)
    rule = seen.etcd.sync or policy.sync_rule
    if not seen.address and not durability.enforced(rule, seen.pg.sync_names, seen.name):
        commands += _upkeep(seen, policy)
        why = "no clients until PostgreSQL waits for a second node"
        return look_again(seen, policy, commands, "leader", why, seen.now + 0.05)
    if not seen.address:
        # a hand-over left the address free; after anything else somebody might still hold it
        check = not seen.handed_over
        commands.append(HoldAddress("this is the writable leader", policy.times.address, take=True, check=check))
    elif any(isinstance(c, Renew) for c in commands):
        commands.append(HoldAddress("the lease was renewed", policy.times.address, take=False, check=False))
    commands += [*storage.ask(seen, policy, key), *_upkeep(seen, policy)]
    stranger = "" if seen.address else seen.address_taken_by
    why = storage.why_leads_on(seen) or "leads"
    why = f"leads without the VIP: {stranger} answers for it, find that machine" if stranger else why
    return look_again(seen, policy, commands, "leader", why, _next_renewal(seen, policy))


def _upkeep(seen: Observation, policy: Policy) -> list[Command]:
    """Slots, durability, the checkpoint others wait for: whatever is not as it should be."""
    assert seen.etcd is not None and seen.pg.position is not None
    commands = _durability(seen, seen.etcd, policy) if seen.job != "SetSync" else []
    names = tuple(sorted(name for name in policy.members if name != seen.name and name not in seen.etcd.removed))
    if set(seen.pg.slots) != set(names):
        commands.append(Slots("one slot for each other member", names))
    settled = seen.now >= seen.took_at + SETTLE
    if seen.pg.checkpoint_timeline != seen.pg.position.timeline and settled and not seen.job:
        commands.append(Checkpoint("others may rewind only after the new leader's first checkpoint"))
    return commands


def _durability(seen: Observation, etcd: EtcdView, policy: Policy) -> list[Command]:
    """The next step towards the rule that should hold. Not while PostgreSQL is being told whom to wait for: what it
    was seen to wait for may be over, and etcd must not promise more."""
    wanted = _wanted_rule(etcd, seen, policy)
    commands = durability.change(etcd.sync, seen.pg.sync_names, wanted, seen.name, _covered(seen, wanted))[:1]
    if not commands and etcd.alone and etcd.sync == wanted and wanted != durability.alone(seen.name):
        return [PublishSync("nobody is alone any more", wanted)]
    return commands


def _wanted_rule(etcd: EtcdView, seen: Observation, policy: Policy) -> SyncRule:
    """The settings' rule; as long as nobody else has the data and nobody streams, the rule of one."""
    streams = any(name in policy.members for name in seen.pg.standbys)  # a report may be older than its member's end
    if etcd.alone != seen.name or streams or not policy.sync_rule.numsync:
        return policy.sync_rule
    return durability.alone(seen.name)


def _covered(seen: Observation, wanted: SyncRule) -> bool | None:
    """Whether a second node of ``wanted`` has all that was acknowledged before commits waited for one; None if it is
    not known since when they do."""
    assert seen.etcd is not None and seen.pg.position is not None
    if not wanted.numsync:
        return True
    if not seen.waits_since:
        return None
    since = Position(seen.pg.position.timeline, seen.waits_since)
    others = [seen.etcd.members.get(name) for name in seen.pg.standbys if name in wanted.voters]
    return any(report and report.position and report.position >= since for report in others)


def _without_primary(seen: Observation, policy: Policy, key: LeaderKey) -> Plan:
    """This node leads, but PostgreSQL is not writable: promote, start, or give up."""
    commands: list[Command] = []
    if seen.address:
        commands.append(DropAddress(f"PostgreSQL is {seen.pg.state}"))
    commands += _renewal(seen, policy, key, key.state)
    role = "promoting" if key.state is LeaderState.PROMOTING else "leader"
    if seen.job:
        if seen.pg.state is PgState.HUNG and seen.job == "Checkpoint":  # which would wait for minutes
            commands.append(KillPostgres("PostgreSQL does not answer"))
        return look_again(seen, policy, commands, role, f"busy: {seen.job}", _next_renewal(seen, policy))
    handed = handover.release(seen, key)
    if handed is not None:
        return look_again(seen, policy, [*commands[: 1 if seen.address else 0], *handed[0]], role, handed[1], seen.now)
    step, reason, at = _repair(seen, policy, key)
    if isinstance(step, (ReleaseKey, Renew)):  # not renewed first: that would change the revision which it compares
        commands = [c for c in commands if not isinstance(c, Renew)]
    return look_again(seen, policy, [*commands, *([step] if step else [])], role, reason, at)


def _repair(seen: Observation, policy: Policy, key: LeaderKey) -> tuple[Command | None, str, float]:
    pg, now = seen.pg, seen.now
    soon = _next_renewal(seen, policy)
    if pg.state is PgState.STANDBY:
        return _promotion(seen, policy, key)
    if pg.state is PgState.STARTING and pg.since < policy.times.start_timeout:
        return None, "PostgreSQL is starting", soon
    if key.state is LeaderState.PROMOTING:
        return _unpromoted(seen, policy, key)
    if pg.state is PgState.STOPPED and not pg.was_primary and not pg.damaged:
        assert seen.etcd is not None
        why = "the leader's data is a standby's: it is promoted, not started as a primary"
        return _renew(seen, key, LeaderState.PROMOTING, why, next_timeline(seen.etcd)), why, now
    stuck = pg.state in (PgState.HUNG, PgState.STARTING)
    why = why_not_restart(seen, policy)
    if why and stuck:
        return KillPostgres(why), why, now
    if why:
        return _release(seen, key, why)
    reason = "PostgreSQL does not answer" if stuck else "PostgreSQL is stopped" if pg.clean else "PostgreSQL has died"
    names = durability.sync_names(policy.sync_rule, seen.name)
    return (
        StartPrimary(f"{reason}: restarting it in place", names, kill_first=stuck),
        f"{reason}: restarting",
        soon,
    )


def _unpromoted(seen: Observation, policy: Policy, key: LeaderKey) -> tuple[Command | None, str, float]:
    """Elected, but there is no standby to promote: start one, or give up."""
    pg = seen.pg
    if pg.state is PgState.STOPPED and max(seen.restarts, seen.failed_rejoins) < RESTARTS:
        start = StartStandby("it was elected and has to be promoted", "")
        return start, "starting before the promotion", _next_renewal(seen, policy)
    return _release(seen, key, f"cannot be promoted: PostgreSQL is {pg.state} {pg.problem}".rstrip())


def why_not_restart(seen: Observation, policy: Policy) -> str:
    """Why a dead PostgreSQL is not restarted where it is; "" if it is."""
    pg = seen.pg
    if pg.state is PgState.EMPTY or pg.damaged:
        return "there is no usable data directory any more"
    if policy.restart_in_place == "always" or not others_stand_by(seen):
        return ""
    if policy.restart_in_place == "never":
        return "PostgreSQL has died, and restart_in_place is never"
    if seen.restarts >= RESTARTS:
        return f"PostgreSQL was started {seen.restarts} times without success: {pg.problem}"
    if pg.redo_bytes > policy.restart_max_redo:
        return f"{pg.redo_bytes >> 20} MiB to replay take longer than a failover"
    return why_unfit(seen)


def _promotion(seen: Observation, policy: Policy, key: LeaderKey) -> tuple[Command | None, str, float]:
    """Promote the standby, once Salt asked for it or ``reaction_grace`` is over."""
    assert seen.etcd is not None and seen.pg.position is not None
    if key.state is not LeaderState.PROMOTING and others_stand_by(seen):
        # It has followed somebody since it led: who is ahead now is for an election to say.
        return _release(seen, key, "the leader's PostgreSQL runs as a standby", fit=True)
    if key.state is not LeaderState.PROMOTING or seen.pg.position.timeline >= key.timeline:
        timeline = next_timeline(seen.etcd, seen.pg.position)
        why = "the leader's PostgreSQL runs as a standby"
        return _renew(seen, key, LeaderState.PROMOTING, why, timeline), why, seen.now
    act_at = seen.took_at + policy.times.reaction_grace
    if seen.asked_to_converge < key.epoch and seen.now < act_at and not seen.handed_over:
        return None, "elected; leaving the promotion to Salt's reaction for a moment", act_at
    if seen.restarts >= RESTARTS:
        return _release(seen, key, f"cannot be promoted: {seen.pg.problem or 'see the log of leaderl'}")
    names = durability.sync_names(policy.sync_rule, seen.name)
    return Promote(f"leads from epoch {key.epoch}", key.timeline, names), "promoting", _next_renewal(seen, policy)


def _release(seen: Observation, key: LeaderKey, why: str, fit: bool = False) -> tuple[Command, str, float]:
    assert seen.etcd is not None
    release = ReleaseKey(why, seen.etcd.leader_revision, key.epoch, key.timeline, key.lsn, to="", clean=False, fit=fit)
    return release, f"gives up: {why}", seen.now


def _released(seen: Observation, policy: Policy, key: LeaderKey) -> Plan | None:
    """The key is free for others, in whose election this node takes part (None), unless it handed over cleanly. It is
    taken back where nobody came: until somebody takes it, its holder has every acknowledged write."""
    assert seen.etcd is not None
    commands = stop_leading(seen, "the key is released")
    age, limit = seen.now - seen.etcd.leader_changed_at, policy.times.yield_after
    limit = limit if key.clean else limit + policy.times.ttl
    usable = seen.pg.state is not PgState.EMPTY and not seen.pg.damaged
    worse_off = bool(seen.storage) and not key.clean  # who gave up because of its storage waits until that is well
    if age >= limit and usable and not seen.job and not worse_off:
        why = f"nobody took over within {limit:.1f} s: leading on"
        # only who stopped cleanly to hand over surely was a primary on the key's timeline; others are promoted (again)
        state = LeaderState.LEADING if key.clean else LeaderState.PROMOTING
        return look_again(seen, policy, [*commands, _renew(seen, key, state, why)], "leader", why, seen.now)
    if not commands and not key.clean and not why_leader_stands(seen, policy):
        return None
    reason = f"gave the key up {'for ' + key.to if key.to else ''}".rstrip()
    at = seen.etcd.leader_changed_at + limit
    return look_again(seen, policy, commands, "deposed_leader", reason, at if at > seen.now else None)


def _renewal(seen: Observation, policy: Policy, key: LeaderKey, state: LeaderState) -> list[Command]:
    """The renewal, if it is due or has something new to say."""
    assert seen.lease is not None
    due = seen.now >= seen.lease.sent_at + policy.times.interval - 0.01
    if not due and state is key.state and seen.etcd is not None and seen.etcd.leader is not None:
        return []
    return [_renew(seen, key, state, "due" if due else f"now {state}")]


def _renew(seen: Observation, key: LeaderKey, state: LeaderState, why: str, timeline: int = 0) -> Renew:
    assert seen.etcd is not None
    lsn = seen.pg.position.lsn if seen.pg.position else key.lsn
    return Renew(why, seen.etcd.leader_revision, key.epoch, state, timeline or key.timeline, lsn, key.beat + 1)


def _next_renewal(seen: Observation, policy: Policy) -> float:
    return (seen.lease.sent_at if seen.lease else seen.now) + policy.times.interval
