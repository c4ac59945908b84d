"""The planner where members are lost, removed or come later: a leader by force, the rule of one, the first of many."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.unit.plan_builder import (
    ASYNC,
    HERE,
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
    view,
)

from chefha_core.model import (
    ClusterConfig,
    EtcdView,
    Force,
    Observation,
    PgFacts,
    PgState,
    Position,
    Probe,
    SyncRule,
)
from chefha_core.plan import commands as c
from chefha_core.plan import durability, handover
from chefha_core.verbs.force_leader import why_not

ALONE = durability.alone("a")
FORCE = Force("b", by="b", epoch=3, mod_revision=77)


def forced(force: Force = FORCE, pg: PgFacts | None = None, **fields: Any) -> Observation:
    """``b`` stands by itself, the key is stale, and ``b`` was asked to lead."""
    only_b = {"b": report("b", streaming=False)}
    etcd = {"force": force, "candidates": {"b": stands("b")}, "members": only_b, **fields}
    return follower(etcd=stale(**etcd), pg=pg or cut(), probe=Probe.SILENT)


# ---- a leader by force


def test_one_that_stands_alone_takes_the_key_only_by_force() -> None:
    assert "1 of the 2 nodes needed" in decide(forced(force=dataclasses.replace(FORCE, to="c"))).reason
    take = only(decide(forced()), c.TakeKey)
    assert (take.epoch, take.force, take.compared) == (4, 77, (stands("b"),))
    assert take.cause == "forced by b"


def test_a_request_of_an_epoch_that_is_over_is_void() -> None:
    assert c.TakeKey not in kinds(forced(force=dataclasses.replace(FORCE, epoch=2)))


def test_nobody_is_forced_while_somebody_leads() -> None:
    seen = follower(etcd=view(force=FORCE))
    assert kinds(seen) == []
    answers = dataclasses.replace(forced(), probe=Probe.LEADS)
    assert c.TakeKey not in kinds(answers), "its key is stale, and it says that it leads"


def test_force_cuts_the_receiver_and_stands_first() -> None:
    seen = forced(pg=standby(), candidates={})
    assert kinds(seen) == [c.CutReceiver]
    assert kinds(forced(candidates={})) == [c.PostCandidacy]


def test_force_works_while_failover_is_off_for_the_cluster_or_for_the_node() -> None:
    assert c.TakeKey in kinds(forced(config=ClusterConfig("system-1", failover=False)))
    unfit = forced(candidates={"b": stands("b", fit=False)})
    assert c.TakeKey in kinds(dataclasses.replace(unfit, failover=False))


def test_older_data_are_not_forced_unless_their_loss_is_accepted() -> None:
    ahead = {"c": report("c", position=Position(1, 900), streaming=False)}
    assert "does not take over by force: c has 1:0/384" in decide(forced(members=ahead)).reason
    accept = dataclasses.replace(FORCE, accept_data_loss=True)
    assert only(decide(forced(force=accept, members=ahead)), c.TakeKey).cause.endswith("accepting that data are lost")


def test_a_log_that_does_not_count_is_forced_only_where_loss_is_accepted() -> None:
    by_hand = cut(position=Position(2, 500))
    assert "does not count" in decide(forced(pg=by_hand)).reason
    candidate = {"b": stands("b", Position(2, 500))}
    accept = dataclasses.replace(FORCE, accept_data_loss=True)
    take = only(decide(forced(force=accept, pg=by_hand, candidates=candidate)), c.TakeKey)
    assert take.timeline == 6, "above its own"


def test_the_verb_refuses_by_the_same_rule() -> None:
    ahead = view(members={"c": report("c", position=Position(1, 900))})
    assert "c has 1:0/384" in why_not(ahead, "b", HERE, accept_data_loss=False)
    assert why_not(ahead, "b", HERE, accept_data_loss=True) == ""
    assert why_not(view(), "b", HERE, accept_data_loss=False) == ""
    assert "bootstrap" in why_not(EtcdView(1), "b", HERE, False)
    assert "join-cluster --recovery" in why_not(view(removed=frozenset({"b"})), "b", HERE, False)


# ---- the rule of one


def lonely(sync: SyncRule = ALONE, others: Any = (), **pg: Any) -> Observation:
    """``a`` leads, and was the only one with data."""
    members = {"a": report("a", pg=PgState.PRIMARY, streaming=False)} | {each.name: each for each in others}
    facts = {"standbys": tuple(each.name for each in others), **pg}
    return leader(etcd=view(alone="a", sync=sync, members=members), pg=primary(**facts))


def test_the_only_one_stops_to_wait_after_etcd_says_that_nobody_else_can_be_elected() -> None:
    assert only(decide(lonely(sync=POLICY.sync_rule)), c.PublishSync).rule == ALONE
    assert only(decide(lonely()), c.SetSync).sync_names == ()
    assert kinds(lonely(sync_names=())) == []


def test_what_a_lost_member_said_last_is_no_reason_to_wait_for_it() -> None:
    seen = lonely(others=[report("b"), report("c")], sync_names=(), standbys=())
    assert kinds(seen) == []
    told = dataclasses.replace(lonely(others=[report("b")], standbys=("c",)), waits_since=90)
    assert c.PublishSync not in kinds(told), "who streams now has not said yet what it has"


def test_it_waits_again_as_soon_as_another_one_streams() -> None:
    seen = lonely(others=[report("b")], sync_names=())
    assert only(decide(seen), c.SetSync).sync_names == ("b", "c")


def test_others_can_be_elected_only_once_one_of_them_has_all_that_nobody_waited_for() -> None:
    behind = lonely(others=[report("b", position=Position(1, 80))])
    assert only(decide(behind), c.SetSync), "since when it waits is not known: leaderl was restarted"
    assert kinds(dataclasses.replace(behind, waits_since=90)) == []
    caught_up = lonely(others=[report("b", position=Position(1, 95))])
    assert only(decide(dataclasses.replace(caught_up, waits_since=90)), c.PublishSync).rule == POLICY.sync_rule
    earlier_timeline = lonely(others=[report("b", position=Position(0, 95))])
    assert kinds(dataclasses.replace(earlier_timeline, waits_since=90)) == []


def test_etcd_promises_nothing_while_postgresql_is_being_told_whom_to_wait_for() -> None:
    seen = lonely(others=[report("b")])
    assert c.PublishSync in kinds(dataclasses.replace(seen, waits_since=90))
    assert kinds(dataclasses.replace(seen, waits_since=90, job="SetSync")) == []


def test_nobody_else_is_elected_under_the_rule_of_one() -> None:
    both = {"b": stands("b"), "c": stands("c")}
    seen = follower(etcd=stale(sync=ALONE, candidates=both), pg=cut(), probe=Probe.SILENT)
    assert "0 of the 1 nodes needed" in decide(seen).reason


def test_nobody_gets_a_hand_over_under_the_rule_of_one() -> None:
    assert "a alone has everything" in handover.why_not(view(sync=ALONE), POLICY, "b")


def test_another_leader_takes_no_clients_under_somebody_elses_rule_of_one() -> None:
    assert not durability.enforced(ALONE, (), "b")
    assert durability.enforced(ALONE, (), "a")


def test_the_mark_goes_when_the_full_rule_holds_anyway() -> None:
    seen = lonely(sync=POLICY.sync_rule, others=[report("b")])
    assert only(decide(seen), c.PublishSync).rule == POLICY.sync_rule
    there = leader(etcd=view(alone="a", sync=ASYNC.sync_rule), pg=primary(sync_names=()))
    assert only(decide(there, ASYNC), c.PublishSync).rule == ASYNC.sync_rule


# ---- removed


def test_the_leader_keeps_no_slot_for_a_removed_member() -> None:
    slots = only(decide(leader(etcd=view(removed=frozenset({"c"})))), c.Slots)
    assert slots.names == ("b",)
    assert kinds(leader(etcd=view(removed=frozenset({"c"})), pg=primary(slots={"b": True}))) == []


def test_a_removed_member_that_comes_back_does_nothing() -> None:
    for seen in (follower("c"), follower("c", pg=PgFacts()), follower("c", pg=cut())):
        assert seen.etcd is not None
        gone = dataclasses.replace(seen, etcd=dataclasses.replace(seen.etcd, removed=frozenset({"c"})))
        found = decide(gone)
        assert (found.commands, found.role) == ((), "removed") and "join-cluster --recovery" in found.reason


def test_a_removed_leader_that_comes_back_holds_nothing() -> None:
    seen = leader(etcd=view(removed=frozenset({"a"})))
    assert kinds(seen) == [c.KillPostgres, c.DropAddress, c.EndClientSessions]


def test_two_of_three_decide_also_while_one_is_removed() -> None:
    seen = follower(etcd=stale(candidates={"b": stands("b")}, removed=frozenset({"c"})), pg=cut(), probe=Probe.SILENT)
    assert "1 of the 2 nodes needed" in decide(seen).reason


# ---- the first of many


def unformed(**fields: Any) -> Observation:
    return Observation(now=NOW, name="a", etcd=EtcdView(1, **fields), pg=PgFacts())


def test_the_first_node_waits_for_the_others_unless_it_was_told_not_to() -> None:
    assert "waiting until" in decide(unformed()).reason
    assert kinds(unformed(bootstrap="a")) == [c.ClaimInitialisation]
    assert decide(unformed(bootstrap="b")).reason == "b creates the cluster"


def test_the_first_node_never_begins_where_another_has_data() -> None:
    other = {"b": report("b")}
    assert "b has data" in decide(unformed(bootstrap="a", members=other)).reason
    assert kinds(unformed(bootstrap="a", members=other)) == []


def test_the_first_node_begins_under_the_rule_of_one() -> None:
    seen = dataclasses.replace(unformed(bootstrap="a", initialiser="a"), pg=primary(sync_names=()))
    assert only(decide(seen), c.PublishCluster).sync == ALONE
    assert only(decide(seen, ASYNC), c.PublishCluster).sync == ASYNC.sync_rule
