"""Several members' answers as one: who tells, whose own word counts, who is asked for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from chefha_core.verbs import rolling
from chefha_core.verbs.reach import VerbError
from chefha_core.verbs.whole import Reply, Whole, merged, position

NAMES = ("be1", "be2", "be3")


def row(name: str, role: str, pg: str, **more: Any) -> dict[str, Any]:
    plain = {"name": name, "role": role, "pg": pg, "search": None, "vip": role == "leader", "reason": role}
    return {**plain, "version": "1", "lag_bytes": 0, "timeline": 3, "lsn": "0/5000", **more}


def status(leader: str = "be1", epoch: int = 7, **problems: str) -> dict[str, Any]:
    rows = [row(n, *(("leader", "leader") if n == leader else ("follower", "follower"))) for n in NAMES]
    vip = {"address": "192.0.2.9", "holder": leader}
    return {"leader": leader, "epoch": epoch, "vip": vip, "members": rows, "problems": problems}


class Salt:
    """Minions that say what they are told to, with a note of what was asked."""

    def __init__(self, **replies: Any) -> None:
        self.said = {name: replies.get(name, status()) for name in NAMES}
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, names: Sequence[str], function: str, how: Mapping[str, Any]) -> dict[str, Reply]:
        self.asked += [(name, function, dict(how)) for name in names]
        found = {name: self.said[name] for name in names}
        return {
            name: Reply(problem=said) if isinstance(said, str) else Reply(said if "status" in function else {"n": name})
            for name, said in found.items()
        }


def test_whoever_reaches_etcd_and_knows_the_newest_epoch_tells() -> None:
    old, cut, new = Reply(status("be1", 6)), Reply(status("be1", 9, etcd="silent")), Reply(status("be3", 7))
    assert merged("c", {"be1": old, "be2": cut, "be3": new})["told_by"] == "be3"


def test_a_member_that_the_teller_does_not_reach_speaks_for_itself() -> None:
    """It may still hold the VIP: that must be seen."""
    cut_off = status("be1", 6, etcd="silent", be2="silent", be3="silent")
    data = merged(
        "c", {"be1": Reply(cut_off), "be2": Reply(status("be2", 7, be1="timed out")), "be3": Reply(problem="x")}
    )
    assert data["told_by"] == "be2" and data["leader"] == "be2"
    assert data["members"][0]["role"] == "leader" and data["vip"]["holder"] == "be1, be2"
    assert data["unanswered"] == {"be3": "x"}


def test_without_any_answer_every_reason_is_told() -> None:
    with pytest.raises(VerbError, match="cluster_status of c: no member answers: be1: down; be2: down too"):
        merged("c", {"be1": Reply(problem="down"), "be2": Reply(problem="down too")})


def test_a_backup_goes_to_the_healthy_follower_that_is_least_behind() -> None:
    behind = status()
    behind["members"][1]["lag_bytes"] = 900
    salt = Salt(be1=behind, be2=behind, be3=behind)
    assert Whole("c", NAMES, salt).on_follower("backup", timeout=5)["asked_on"] == "be3"
    assert salt.asked[-1] == ("be3", "chefha.backup", {"timeout": 5})
    salt.said["be3"] = "its minion does not answer"
    assert Whole("c", NAMES, salt).on_follower("backup")["asked_on"] == "be2"
    salt.said["be2"] = "cut off"
    with pytest.raises(
        VerbError, match=r"no healthy follower to do it: be1: role leader.*; be2: cut off; be3: its minion"
    ):
        Whole("c", NAMES, salt).on_follower("backup")


def test_the_leader_is_asked_and_where_it_is_silent_another() -> None:
    salt = Salt()
    whole = Whole("c", NAMES, salt)
    assert whole.on_leader("demote")["asked_on"] == "be1"
    assert whole.on_any("promote", node="be2")["asked_on"] == "be1"
    assert whole.on_any("remove_node", but="be1", node="be1")["asked_on"] == "be2"
    salt.said["be1"] = "down"
    assert whole.on_any("promote", node="be3")["asked_on"] == "be2"
    with pytest.raises(VerbError, match="be1: down"):
        whole.on_leader("demote")


def test_the_newest_data_are_compared_as_numbers() -> None:
    assert position(row("a", "-", "offline", lsn="1/0")) > position(row("b", "-", "offline", lsn="0/FFFFFFFF"))
    assert position(row("a", "-", "offline", timeline=None, lsn=None)) == (0, 0)
    forced = status()
    forced["members"][2]["lsn"] = "0/10000"
    salt = Salt(be1=forced, be2=forced, be3=forced)
    assert Whole("c", NAMES, salt).on_newest("force_leader")["asked_on"] == "be3"


class Upgrades(Salt):
    """Members of which each says what its own upgrade comes to."""

    def __init__(self, **outcomes: Any) -> None:
        super().__init__()
        self.outcomes = outcomes

    def __call__(self, names: Sequence[str], function: str, how: Mapping[str, Any]) -> dict[str, Reply]:
        super().__call__(names, function, how)
        if how.get("check"):
            said = {name: self.outcomes.get(f"{name}_check", {"leader": "be1"}) for name in names}
        else:
            said = {
                name: self.outcomes.get(
                    name, {"changed": ["library"], "steps": [{"step": "states", "seconds": 1.0, "outcome": "done"}]}
                )
                for name in names
            }
        return {name: Reply(problem=one) if isinstance(one, str) else Reply(one) for name, one in said.items()}

    @property
    def order(self) -> list[tuple[str, bool]]:
        return [(name, how["failover"]) for name, _, how in self.asked if "failover" in how]


def test_f56_followers_first_the_leader_last_and_only_it_may_hand_over() -> None:
    salt = Upgrades()
    data = rolling.upgrade(Whole("c", NAMES, salt), False, 60)
    assert salt.order == [("be2", False), ("be3", False), ("be1", True)]
    assert data["changed"] == ["be2", "be3", "be1"] and data["comment"] == ""


def test_f56_nothing_beyond_the_member_that_failed_is_touched() -> None:
    salt = Upgrades(be3="state x failed: y")
    shown: list[dict[str, Any]] = []
    with pytest.raises(
        rolling.Stopped, match="stopped at be3: state x failed: y; be2 done before it, be1 not touched"
    ) as stop:
        rolling.upgrade(Whole("c", NAMES, salt), False, 60, shown.append)
    assert salt.order == [("be2", False), ("be3", False)]
    assert [(s["node"], s["outcome"]) for s in shown[-2:]] == [("be3", "failed"), ("be1", "not reached")]
    assert stop.value.data["steps"] == shown


@pytest.mark.parametrize("told", ["its minion does not answer", {"leader": "be2"}])
def test_f56_refused_before_anything_unless_all_agree(told: Any) -> None:
    salt = Upgrades(be2_check=told)
    with pytest.raises(VerbError, match="refused before anything was touched"):
        rolling.upgrade(Whole("c", NAMES, salt), False, 60)
    assert salt.order == []


def test_f56_a_second_run_says_that_nothing_changed() -> None:
    unchanged = {"changed": [], "steps": []}
    data = rolling.upgrade(Whole("c", NAMES, Upgrades(be1=unchanged, be2=unchanged, be3=unchanged)), False, 60)
    assert data["changed"] == [] and "nothing changed" in data["comment"]
