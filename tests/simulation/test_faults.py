"""Named faults of the fault list as directed histories, each under many seeds; the invariants are the world's own."""

from __future__ import annotations

import pytest
from sim.faults import Fault
from sim.history import live
from sim.world import World

from chefha_core.act import KEPT_EPOCHS

SEEDS = range(8)
L, F, S = "leader", "first", "second"


def lived(script: list[Fault], **kinds: object) -> list[World]:
    return [live(seed, script, **kinds) for seed in SEEDS]


def epochs(worlds: list[World]) -> set[int]:
    return {world.leader.epoch for world in worlds if world.leader}


SURVIVED: dict[str, list[Fault]] = {
    "F01 postmaster of the leader killed": [Fault(1, "kill PostgreSQL of", L), Fault(9, "nothing")],
    "F03 leaderl of the leader killed": [Fault(1, "kill leaderl of", L, 15.0), Fault(12, "nothing")],
    "F04 leaderl and postmaster together": [
        Fault(1, "kill leaderl of", L, 8.0),
        Fault(0, "kill PostgreSQL of", L),
        Fault(12, "nothing"),
    ],
    "F05 receiver of a follower hangs for ever": [Fault(1, "hang the receiver of", F), Fault(5, "nothing")],
    "F05 receivers of both followers hang for ever": [
        Fault(1, "hang the receiver of", F),
        Fault(1, "hang the receiver of", S),
        Fault(5, "nothing"),
    ],
    "F05 postmaster of the leader hangs": [Fault(1, "hang PostgreSQL of", L, 15.0), Fault(20, "nothing")],
    "F06 leaderl of the leader stopped past its lease": [Fault(1, "stop leaderl of", L, 8.0), Fault(12, "nothing")],
    "F08 elected node cannot start PostgreSQL": [
        Fault(0.7, "kill leaderl of", L, 8.0),
        Fault(3.8, "kill PostgreSQL of", L),
        Fault(0, "jobs fail on", L, 2.0, "start"),
        Fault(12, "nothing"),
    ],
    "F14 leader loses power": [Fault(1, "crash", L, 15.0), Fault(12, "nothing")],
    "F14 two of three are lost, the leader is left": [Fault(1, "two of three lost but", L, 8.0), Fault(20, "nothing")],
    "F14 two of three are lost, a follower is left": [Fault(1, "two of three lost but", F, 8.0), Fault(20, "nothing")],
    "F08 the only one that is left cannot be promoted at first": [
        Fault(1, "jobs fail on", L, 3.5, "start"),
        Fault(0.3, "two of three lost but", L, 8.0),
        Fault(0.1, "crash", L, 0.3),
        Fault(20, "nothing"),
    ],
    "F14 two of three are lost, and later the one that was left": [
        Fault(1, "two of three lost but", F, 3.5),
        Fault(9, "crash", L, 15.0),
        Fault(20, "nothing"),
    ],
    "F59 a dead node is removed and replaced": [Fault(1, "remove and replace", S, 8.0), Fault(20, "nothing")],
    "F58 a leader by force where two are away": [
        Fault(1, "crash", L, 15.0),
        Fault(0, "kill leaderl of", S, 15.0),
        Fault(3, "force to lead", F),
        Fault(20, "nothing"),
    ],
    "F14 all three lose power": [Fault(1, "crash all", L, 3.5), Fault(20, "nothing")],
    "F15 leader's host suspended": [Fault(1, "suspend", L, 15.0), Fault(18, "nothing")],
    "F15 leader's host paused": [Fault(1, "pause", L, 15.0), Fault(18, "nothing")],
    "F18 leader unfit, then its postmaster dies": [
        Fault(1, "unfit", L, 15.0),
        Fault(1, "kill PostgreSQL of", L),
        Fault(9, "nothing"),
    ],
    "F17 the disks of all get full, and the leader dies": [
        Fault(1, "disk full", L, 15.0, "all"),
        Fault(2, "kill PostgreSQL of", L),
        Fault(15, "nothing"),
    ],
    "F18 the disks of all hang": [Fault(1, "disk full", L, 30.0, "all hangs"), Fault(33, "nothing")],
    "F18 the leader's disk hangs again and again": [
        Fault(1, "disk full", L, 8.0, "hangs"),
        Fault(10, "disk full", L, 30.0, "hangs"),
        Fault(33, "nothing"),
    ],
    "F21 leader cut from etcd": [Fault(1, "cut off", L, 15.0, "etcd"), Fault(18, "nothing")],
    "F22 leader cut from its followers": [Fault(1, "cut off", L, 15.0, "pg"), Fault(18, "nothing")],
    "F23 leader cut from all": [Fault(1, "cut off", L, 15.0), Fault(18, "nothing")],
    "F25 one-way loss into the leader": [Fault(1, "cut off", L, 15.0, "in"), Fault(18, "nothing")],
    "F25 one-way loss out of the leader": [Fault(1, "cut off", L, 15.0, "out"), Fault(18, "nothing")],
    "F26 slow and lossy network": [
        Fault(1, "slow network", L, 15.0),
        Fault(1, "lossy network", L, 15.0),
        Fault(18, "nothing"),
    ],
    "F33 etcd without a quorum": [Fault(1, "stop etcd of", L, 15.0, "all"), Fault(18, "nothing")],
    "F33 etcd comes back while the leader is cut off": [
        Fault(1, "stop etcd of", L, 5.0, "all"),
        Fault(4.9, "cut off", L, 8.0, "etcd http"),
        Fault(12, "nothing"),
    ],
    "F38 leader key deleted by hand": [Fault(1, "leader key deleted"), Fault(8, "nothing")],
    "F41 pg_promote by hand, then the leader dies": [
        Fault(1, "kill leaderl of", F, 3.5),
        Fault(0.1, "pg_promote by hand on", F),
        Fault(3, "crash", L, 8.0),
        Fault(9, "nothing"),
    ],
    "F42 PostgreSQL started by hand on the old leader": [
        Fault(1, "crash", L, 5.0),
        Fault(5.1, "PostgreSQL started by hand on", S),
        Fault(9, "nothing"),
    ],
    "F44 the source of a rewind dies": [
        Fault(1, "crash", L, 5.0),
        Fault(0, "trap", F, 5.0, "crash/Checkpoint/after"),
        Fault(15, "nothing"),
    ],
    "F51 hand-over, its candidate dies midway": [
        Fault(1, "trap", F, 8.0, "crash/TakeKey/before"),
        Fault(0, "hand over to", F),
        Fault(15, "nothing"),
    ],
}


@pytest.mark.parametrize("name", SURVIVED)
def test_survives(name: str) -> None:
    lived(SURVIVED[name])


@pytest.mark.parametrize(
    "command", ["Renew", "Checkpoint", "DropAddress", "EndClientSessions", "StopPostgres", "ReleaseKey"]
)
@pytest.mark.parametrize("what", ["kill leaderl", "stop leaderl", "crash", "pause"])
def test_f10_leader_struck_at_every_step_of_a_hand_over(what: str, command: str) -> None:
    for when in ("before", "after"):
        lived([Fault(1, "trap", L, 5.0, f"{what}/{command}/{when}"), Fault(0, "hand over to", F), Fault(15, "nothing")])


@pytest.mark.parametrize("command", ["CutReceiver", "PostCandidacy", "TakeKey", "Promote", "HoldAddress", "Checkpoint"])
@pytest.mark.parametrize("what", ["kill leaderl", "stop leaderl", "crash", "pause"])
def test_f10_successor_struck_at_every_step_of_a_failover(what: str, command: str) -> None:
    for when in ("before", "after"):
        lived([Fault(1, "trap", F, 5.0, f"{what}/{command}/{when}"), Fault(0, "crash", L, 3.5), Fault(15, "nothing")])


def test_hand_over_moves_the_leader_without_a_failed_write() -> None:
    worlds = lived([Fault(1, "hand over to", F), Fault(9, "nothing")])
    assert epochs(worlds) == {2} and {w.leader.name for w in worlds if w.leader} == {"b"}


def test_f13_leaderl_restarted_on_the_leader_is_no_failover() -> None:
    assert epochs(lived([Fault(1, "kill leaderl of", L, 1.0), Fault(9, "nothing")])) == {1}


def test_f17_a_leader_whose_disk_gets_full_hands_over_once() -> None:
    worlds = lived([Fault(1, "disk full", L, 90.0), Fault(80, "nothing")])
    assert epochs(worlds) == {2}
    assert not any("the key is released" in text or "gives up" in text for w in worlds for _, _, text in w.story)


def test_f17_where_all_disks_are_full_the_leader_leads_on() -> None:
    assert epochs(lived([Fault(1, "disk full", L, 90.0, "all"), Fault(80, "nothing")])) == {1}


def test_f18_a_leader_whose_disk_hangs_gives_up_and_writes_go_on() -> None:
    for world in lived([Fault(1, "disk full", L, 90.0, "hangs"), Fault(40, "nothing")]):
        assert world.leader and world.leader.epoch == 2
        assert any("gives up" in text for _, who, text in world.story if who == "a")


def test_f60_a_node_that_was_away_for_more_epochs_than_the_history_has_rows_joins_again() -> None:
    script = [
        Fault(1, "crash", "c", 200.0),
        *[Fault(3, "hand over to", "a", extra="anybody")] * 60,
        Fault(25, "nothing"),
    ]
    for world in lived(script):
        assert world.leader and world.leader.epoch > KEPT_EPOCHS + 5
        assert sum(key.startswith("history/") for key in world.etcd.kvs) == KEPT_EPOCHS


def test_f33_a_leader_whom_all_members_agree_to_goes_on_without_etcd() -> None:
    worlds = lived([Fault(1, "stop etcd of", L, 15.0, "all"), Fault(18, "nothing")])
    assert epochs(worlds) == {1}
    outages = [sum("removes the VIP" in text for _, who, text in w.story if who == "a") for w in worlds]
    assert max(outages) <= 1


def test_f37_etcd_stopped_for_a_second_is_no_failover() -> None:
    script = [Fault(2, "stop etcd of", L, 1.0, "all") for _ in range(5)]
    assert epochs(lived([*script, Fault(5, "nothing")])) == {1}


def test_f40_the_most_advanced_follower_leads_even_if_another_is_barred() -> None:
    worlds = lived([Fault(1, "failover off", F, 15.0, "node"), Fault(1, "crash", L, 15.0), Fault(14, "nothing")])
    assert all("took the key" not in text for w in worlds for _, who, text in w.story if who == "b")


#: the first follower may not lead and has log that the second has not, when the leader is lost for long
BARRED_AHEAD = [
    Fault(1, "failover off", F, 40.0, "node"),
    Fault(0, "cut off", S, 2.5, "pg"),
    Fault(2, "crash", L, 40.0),
]


@pytest.mark.parametrize("durability", ["quorum", "async"])
def test_f40_who_may_lead_fetches_from_who_may_not_what_only_that_one_has(durability: str) -> None:
    worlds = lived([*BARRED_AHEAD, Fault(15, "nothing")], durability=durability)
    for world in worlds:
        [took, *_] = [(at, who) for at, who, text in world.story if "took the key" in text]
        assert took[1] == "c" and took[0] < 20
    assert any("CatchUp" in text for world in worlds for _, _, text in world.story)


@pytest.mark.parametrize("command", ["CatchUp", "PostCandidacy", "TakeKey"])
@pytest.mark.parametrize("what", ["kill leaderl", "stop leaderl", "crash", "pause", "kill PostgreSQL"])
def test_f40_either_of_them_struck_at_every_step_of_that(what: str, command: str) -> None:
    for when in ("before", "after"):
        for name in (F, S):
            lived([Fault(0, "trap", name, 5.0, f"{what}/{command}/{when}"), *BARRED_AHEAD, Fault(15, "nothing")])


def test_f58_failover_switched_off_waits_for_the_old_leader() -> None:
    script = [Fault(1, "failover off", L, 15.0), Fault(1, "kill leaderl of", L, 8.0), Fault(18, "nothing")]
    assert epochs(lived(script)) == {1}


@pytest.mark.parametrize(
    "command", ["DropAddress", "StopPostgres", "PublishRestore", "SwapIn", "StartPrimary", "HoldAddress", "Checkpoint"]
)
@pytest.mark.parametrize("what", ["kill leaderl", "stop leaderl", "crash", "pause", "kill PostgreSQL"])
def test_leader_struck_at_every_step_of_a_restoration(what: str, command: str) -> None:
    """All of the old data is served on, or all of the restored, and never both."""
    for when in ("before", "after"):
        lived([Fault(3, "trap", L, 5.0, f"{what}/{command}/{when}"), Fault(0, "restore on", L), Fault(15, "nothing")])


def test_restored_data_is_served_and_the_others_clone_it() -> None:
    worlds = lived([Fault(3, "restore on", L), Fault(15, "restore on", L), Fault(15, "nothing")])
    assert all(w.with_data() == 3 and w.generation != "system-0" for w in worlds)
    assert epochs(worlds) == {3}


def test_a_restoration_whose_leader_is_cut_off_leaves_one_kind_of_data() -> None:
    for planes in ("", "etcd", "pg", "etcd http"):
        for after in (0.0, 0.1, 0.2, 0.5):
            lived([Fault(3, "restore on", L), Fault(after, "cut off", L, 8.0, planes), Fault(14, "nothing")])
