"""Restored data in the place of the cluster's: asked for, exchanged, cloned by the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.unit.plan_builder import (
    KEY,
    MEMBERS,
    NOW,
    POLICY,
    cut,
    decide,
    follower,
    kinds,
    leader,
    only,
    primary,
    report,
    stale,
    standby,
    stands,
    stopped,
    view,
)

from chefha_core.model import ClusterConfig, LeaderKey, LeaderState, Lease, Observation, PgFacts, PgState, Restoration
from chefha_core.plan import commands as c
from chefha_core.plan.restore import why_old_data_goes

REQUEST = Restoration("a", 3, "system-2", 5, "chef-backup.tar.zst", mod_revision=45)
ASKED = view(restore=REQUEST, restore_seen_at=NOW - 0.1)
#: etcd after the restored data was published, and before the others have cloned it
NEW_KEY = LeaderKey("a", 4, LeaderState.LEADING, timeline=5)
RESTORED = view(
    leader=NEW_KEY,
    config=ClusterConfig("system-2", former=("system-1",)),
    last_epoch=4,
    timelines=frozenset({1, 5}),
    members={
        "a": report("a", pg=PgState.PRIMARY, streaming=False, system_id="system-2", checkpoint_timeline=5),
        "b": report("b", system_id="system-1"),
        "c": report("c", system_id="system-1"),
    },
)
LEASE = Lease(4, NOW - 0.2)


def asked(**fields: Any) -> Observation:
    return leader(**{"etcd": ASKED, "staged": "system-2", **fields})


def test_asked_for_it_withdraws_the_address_and_stops_postgresql() -> None:
    assert kinds(asked()) == [c.DropAddress, c.EndClientSessions, c.StopPostgres]


def test_the_key_is_renewed_while_postgresql_stops() -> None:
    seen = asked(job="StopPostgres", lease=Lease(3, NOW - 0.6), address=False, pg=primary(state=PgState.STARTING))
    assert kinds(seen) == [c.Renew]


def test_a_postgresql_that_does_not_stop_is_ended() -> None:
    late = dataclasses.replace(ASKED, restore_seen_at=NOW - POLICY.times.handover_timeout - 1)
    assert kinds(asked(etcd=late, address=False, job="StopPostgres")) == [c.KillPostgres]
    assert kinds(asked(address=False, pg=primary(state=PgState.HUNG))) == [c.KillPostgres]


@pytest.mark.parametrize(
    "pg", [stopped(was_primary=True, clean=True), stopped(was_primary=True, position=None), PgFacts()]
)
def test_once_it_is_stopped_the_restored_data_is_published_with_a_new_epoch(pg: PgFacts) -> None:
    """Also where the old data is broken, or gone: that is what archives are for."""
    found = only(decide(asked(pg=pg, address=False)), c.PublishRestore)
    assert (found.expect, found.epoch, found.request) == (40, 4, REQUEST)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"staged": ""}, "is not beside the data directory of a"),
        ({"staged": "system-3"}, "is not beside the data directory of a"),
        ({"etcd": dataclasses.replace(ASKED, restore=dataclasses.replace(REQUEST, epoch=2))}, "of epoch 2"),
        ({"etcd": dataclasses.replace(ASKED, timelines=frozenset({1, 5}))}, "timeline 5 is not above 5"),
        ({"etcd": dataclasses.replace(ASKED, config=None)}, "no configuration"),
    ],
)
def test_refused_the_leader_leads_on(fields: dict[str, Any], why: str) -> None:
    seen = asked(**fields)
    found = decide(seen)
    if seen.etcd and seen.etcd.config:
        assert why in only(found, c.ClearRestore).reason
    assert not any(isinstance(x, (c.StopPostgres, c.DropAddress, c.PublishRestore)) for x in found.commands)


def test_published_it_is_put_in_place_and_started_as_a_primary() -> None:
    seen = leader(
        etcd=RESTORED, lease=LEASE, staged="system-2", address=False, pg=stopped(was_primary=True, clean=True)
    )
    assert only(decide(seen), c.SwapIn).system_id == "system-2"
    assert c.SwapIn in kinds(dataclasses.replace(seen, pg=PgFacts()))  # killed between the two renames
    assert kinds(dataclasses.replace(seen, job="SwapIn")) == []
    assert kinds(dataclasses.replace(seen, job="SwapIn", staged="")) == []  # moved, and not looked at since
    new = stopped(was_primary=True, clean=True, system_id="system-2")
    assert only(decide(dataclasses.replace(seen, staged="", pg=new)), c.StartPrimary).sync_names == ("b", "c")


def test_the_old_data_is_ended_if_it_runs_after_the_publication() -> None:
    seen = leader(etcd=RESTORED, lease=LEASE, staged="system-2")
    assert kinds(seen) == [c.DropAddress, c.KillPostgres]


def test_restarted_in_place_although_others_stand_by_with_former_data() -> None:
    dead = stopped(was_primary=True, system_id="system-2", position=None)
    seen = leader(etcd=RESTORED, lease=LEASE, pg=dead, restarts=5, address=False)
    assert c.StartPrimary in kinds(seen)


def test_a_follower_with_former_data_clones_once_the_leader_serves_the_restored() -> None:
    seen = follower(etcd=RESTORED)
    assert only(decide(seen), c.Clone).upstream == MEMBERS["a"]
    not_yet = {**RESTORED.members, "a": report("a", pg=PgState.PRIMARY, checkpoint_timeline=1)}
    assert kinds(follower(etcd=dataclasses.replace(RESTORED, members=not_yet))) == []
    assert kinds(follower(etcd=RESTORED, job="Clone")) == []
    assert kinds(follower(etcd=RESTORED, retry_at=NOW + 2)) == []


def test_former_data_never_stands_for_election() -> None:
    gone = dataclasses.replace(RESTORED, leader_changed_at=stale().leader_changed_at)
    assert not {c.PostCandidacy, c.TakeKey, c.CutReceiver} & set(kinds(follower(etcd=gone, pg=cut())))
    stood = dataclasses.replace(gone, candidates={"b": stands("b")})
    assert kinds(follower(etcd=stood, pg=cut())) == [c.WithdrawCandidacy]


def test_a_primary_on_former_data_is_ended() -> None:
    assert kinds(follower(etcd=RESTORED, pg=primary(), address=True))[:2] == [c.KillPostgres, c.DropAddress]


def test_a_leader_that_lost_the_restored_data_gives_up() -> None:
    seen = leader(etcd=RESTORED, lease=LEASE, address=False, pg=stopped(was_primary=True))
    assert only(decide(seen), c.ReleaseKey).fit is False


def test_data_that_was_never_this_clusters_is_left_alone() -> None:
    found = decide(follower(etcd=RESTORED, pg=standby(system_id="system-9")))
    assert (found.role, found.commands) == ("blocked", ())


def test_what_was_replaced_goes_once_all_others_follow_the_new_data() -> None:
    def seen(**members: Any) -> Observation:
        etcd = dataclasses.replace(RESTORED, members={**RESTORED.members, **members})
        return leader(etcd=etcd, lease=LEASE, pg=primary(system_id="system-2"))

    follows = {name: report(name, system_id="system-2") for name in ("b", "c")}
    assert why_old_data_goes(seen(**follows), POLICY)
    assert not why_old_data_goes(seen(b=follows["b"]), POLICY)
    assert not why_old_data_goes(dataclasses.replace(seen(**follows), etcd=None), POLICY)
    assert why_old_data_goes(follower(pg=standby(since=61.0)), POLICY)
    assert not why_old_data_goes(follower(pg=standby(since=59.0)), POLICY)


def test_where_nobody_has_any_data_whose_key_it_was_restores() -> None:
    """All three data directories are lost: the leader gave up, and nobody can be elected."""
    key = dataclasses.replace(KEY, state=LeaderState.RELEASING)
    empty = {name: report(name, pg=PgState.EMPTY, streaming=False, position=None) for name in MEMBERS}
    etcd = dataclasses.replace(ASKED, leader=key, members=empty)
    seen = asked(etcd=etcd, pg=PgFacts(), address=False, lease=None)
    assert kinds(seen) == [c.Renew]
    assert kinds(dataclasses.replace(seen, lease=Lease(3, NOW - 0.1))) == [c.PublishRestore]
    some = dataclasses.replace(etcd, members={**empty, "c": report("c")})
    assert c.PublishRestore not in kinds(dataclasses.replace(seen, etcd=some, lease=Lease(3, NOW - 0.1)))


def test_a_released_key_is_not_restored_on() -> None:
    released = dataclasses.replace(ASKED, leader=dataclasses.replace(KEY, state=LeaderState.RELEASING))
    assert c.PublishRestore not in kinds(asked(etcd=released, pg=stopped(was_primary=True, clean=True)))
