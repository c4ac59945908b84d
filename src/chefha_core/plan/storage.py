"""A leader whose storage is in trouble: it hands over by plan, gives the key up where its PostgreSQL cannot even stop,
or leads on where nobody is better off.
"""

from __future__ import annotations

from chefha_core.model import LeaderKey, LeaderState, Observation, PgState
from chefha_core.plan.commands import AskHandOver, Command, ReleaseKey
from chefha_core.plan.facts import others_stand_by
from chefha_core.plan.fence import stop_leading
from chefha_core.plan.handover import best
from chefha_core.plan.policy import Policy

#: seconds before a hand-over that did not come about is asked for again
RETRY = 60.0


def ask(seen: Observation, policy: Policy, key: LeaderKey) -> list[Command]:
    """The hand-over to whoever is eligible; nothing where nobody is, or it was asked for lately."""
    etcd = seen.etcd
    assert etcd is not None
    lately = seen.asked_at and seen.now < seen.asked_at + RETRY
    if not seen.storage or etcd.intent is not None or key.state is not LeaderState.LEADING or lately:
        return []
    to = best(seen, etcd, policy)
    return [AskHandOver(f"storage: {seen.storage}", key.epoch)] if to else []


def give_up(seen: Observation, policy: Policy, key: LeaderKey) -> tuple[list[Command], str] | None:
    """The hand-over is overdue, because PostgreSQL did not get its checkpoint written or does not end."""
    etcd = seen.etcd
    assert etcd is not None
    intent = etcd.intent
    if not seen.storage or intent is None or intent.epoch != key.epoch or not others_stand_by(seen):
        return None
    if seen.now <= etcd.intent_seen_at + policy.times.handover_timeout:
        return None
    if seen.pg.state is PgState.PRIMARY and seen.prepared_for == intent.mod_revision:
        return None  # it writes: what is missing is on the other side, and it goes on leading
    why = f"gives up, for it can neither checkpoint nor stop: {seen.storage}"
    release = ReleaseKey(why, etcd.leader_revision, key.epoch, key.timeline, key.lsn, to="", clean=False, fit=False)
    return [*stop_leading(seen, why), release], why


def why_leads_on(seen: Observation) -> str:
    """What a leader says whose storage is in trouble, "" if it is not."""
    return f"leads on although {seen.storage}: nobody else is eligible, or a hand-over failed" if seen.storage else ""
