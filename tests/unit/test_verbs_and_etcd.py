"""Verbs that ask in etcd, on one that is played: what they say where somebody damaged it, and where nobody obeys."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tests.unit.plan_builder import KEY

from chefha_core import codec
from chefha_core.model import ClusterConfig, EtcdView, LeaderState, MemberReport, PgState, Position, Restoration
from chefha_core.parts.etcd import KeyValue, Snapshot, TxnResult
from chefha_core.settings import Secrets, Settings
from chefha_core.verbs import handover, restore_watch, switches
from chefha_core.verbs.reach import VerbError

SETTINGS = Settings(
    members={"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}, vip="127.0.0.9", secrets=Secrets("s", "r", "t")
)


class Played:
    """etcd with these keys, whose transactions succeed and change nothing but what ``then`` says."""

    def __init__(self, **keys: str) -> None:
        self.keys, self.changed, self.succeeds = keys, 0, True
        self.then: dict[str, str] = {}

    def get(self, key: str) -> KeyValue | None:
        return self.range().kvs.get(key)

    def range(self) -> Snapshot:
        return Snapshot(9, {key: KeyValue(key, value, 1, 5, 1, 0) for key, value in self.keys.items()})

    def txn(self, *what: Any) -> TxnResult:
        self.changed += 1
        self.keys.update(self.then)
        return TxnResult(self.succeeds, 10)

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def etcd(monkeypatch: pytest.MonkeyPatch) -> Played:
    """Of a cluster that a leads."""
    played = Played(leader=codec.dump(KEY), config=codec.dump(ClusterConfig("7")))
    for verb in (handover, switches):
        monkeypatch.setattr(verb, "etcd_client", lambda *how: played)
    return played


@pytest.mark.parametrize("value", ["mine", "[]", "{}"])
def test_a_damaged_configuration_is_not_switched(etcd: Played, value: str) -> None:
    etcd.keys["config"] = value
    with pytest.raises(VerbError, match=r"^set-cluster-failover: etcd key config holds .*; nothing was changed$"):
        switches.set_cluster_failover(SETTINGS, "a", "off")
    assert etcd.changed == 0


@pytest.mark.parametrize("value", ["mine", "[1]", "7"])
def test_a_damaged_word_of_leaderl_is_no_word(value: str) -> None:
    kvs = Played(intent_result=value, restore_result=value).range()
    handover._refused_by_leader(kvs, EtcdView(9, leader=KEY), KEY.epoch, "promote b")
    restore_watch._refused(codec.told(kvs.kvs, "restore_result"), EtcdView(9), Restoration("a", 3, "7", 2, "x"))


def key(**changes: Any) -> str:
    """The leader key, changed."""
    return codec.dump(dataclasses.replace(KEY, **changes))


def follower(name: str) -> str:
    return codec.dump(
        MemberReport(name, SETTINGS.members[name], PgState.STANDBY, "follower", Position(1, 100), streaming=True)
    )


REFUSED = json.dumps({"epoch": KEY.epoch, "outcome": "refused", "reason": "b is behind"})
#: what leaderl does with a request, and what is said of that
ENDS = {
    "nothing": ({"intent": json.dumps({"to": "b", "by": "a", "epoch": KEY.epoch})}, "no hand-over within 0.5 s; a is"),
    "drops it": ({}, "the leader a dropped the hand-over without a reason"),
    "says why not": ({"intent_result": REFUSED}, "b is behind; a goes on leading"),
    "leads again": ({"leader": key(epoch=4)}, "nobody took over, so a leads again"),
    "another leads": ({"leader": key(name="c", epoch=4)}, "c became the leader instead, because b dropped out"),
    "nobody leads": ({"leader": key(state=LeaderState.RELEASING)}, "no hand-over within 0.5 s; a is releasing"),
    "damage": ({"config": "mine"}, "no hand-over within 0.5 s; etcd key config holds 'mine'"),
}


@pytest.mark.parametrize("end", ENDS)
def test_f51_a_hand_over_that_fails_says_of_what_verb_and_what_to_do(
    etcd: Played, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(handover, "SILENCE", 0.1)
    etcd.keys["members/b"] = follower("b")
    etcd.then, words = ENDS[end]
    with pytest.raises(VerbError) as error:
        handover.promote(SETTINGS, "a", "b", 0.5)
    assert str(error.value).startswith(f"promote b: {words}")
    assert str(error.value).endswith("then try again")
    assert etcd.changed == 2, "asked, and withdrawn"


def test_f51_two_that_ask_at_the_same_moment(etcd: Played) -> None:
    etcd.keys["members/b"], etcd.succeeds = follower("b"), False
    with pytest.raises(VerbError, match=r"^demote: somebody else asked for .* at the same moment; .* then try again$"):
        handover.demote(SETTINGS, "a", 0.5)
