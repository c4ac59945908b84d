"""Verbs that ask in etcd, on one that is played: what they say where somebody damaged it, and where nobody obeys."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any
from unittest import mock

import pytest
from tests.unit.plan_builder import KEY
from tests.unit.played_clock import Clock

from chefha_core import codec
from chefha_core.backup.errors import ArchiveError
from chefha_core.model import ClusterConfig, EtcdView, LeaderState, MemberReport, PgState, Position, Restoration
from chefha_core.parts.etcd import KeyValue, Snapshot, TxnResult
from chefha_core.settings import Secrets, Settings
from chefha_core.verbs import handover, remove_node, restore, restore_watch, switches
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
    for verb in (handover, remove_node, restore, switches):
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
    told: list[dict[str, Any]] = []
    with pytest.raises(VerbError) as error:
        handover.promote(SETTINGS, "a", "b", 0.5, told.append)
    assert str(error.value).startswith(f"promote b: {words}")
    assert str(error.value).endswith("then try again")
    assert etcd.changed == 2, "asked, and withdrawn"
    assert [row["step"] for row in told] == list(handover.STEPS)
    assert re.fullmatch("(done,)+failed(,not reached)*", ",".join(row["outcome"] for row in told))


def test_f51_two_that_ask_at_the_same_moment(etcd: Played) -> None:
    etcd.keys["members/b"], etcd.succeeds = follower("b"), False
    with pytest.raises(VerbError, match=r"^demote: somebody else asked for .* at the same moment; .* then try again$"):
        handover.demote(SETTINGS, "a", 0.5)


@pytest.mark.parametrize(("refused", "outcomes"), [("the archive is foreign", []), ("", ["done", "failed"])])
def test_a_restoration_that_fails_says_which_steps_are_not_reached(
    etcd: Played, monkeypatch: pytest.MonkeyPatch, refused: str, outcomes: list[str]
) -> None:
    """And one that is refused has not begun."""

    def broken(*how: Any) -> Restoration:
        raise ArchiveError("it ends in the middle")

    monkeypatch.setattr(restore.checks, "Source", mock.MagicMock())
    monkeypatch.setattr(restore.checks, "refusal", lambda *how: refused)
    for check in ("archive_refusal", "time_refusal"):
        monkeypatch.setattr(restore.checks, check, lambda *how: "")
    monkeypatch.setattr(restore, "Staging", mock.MagicMock(**{"return_value.__exit__.return_value": False}))
    monkeypatch.setattr(restore, "_make_ready", broken)
    told: list[dict[str, Any]] = []
    with pytest.raises(VerbError, match=refused or "it ends in the middle; nothing was changed"):
        restore.restore(SETTINGS, "a", "archive", on_step=told.append)
    missing = ["not reached"] * (len(restore.STEPS) - 2) if outcomes else []
    assert [row["outcome"] for row in told] == outcomes + missing
    assert [row["step"] for row in told] == list(restore.STEPS)[: len(told)]


@pytest.fixture
def silent(etcd: Played, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """None of the ports of b answers, and it reports to etcd."""
    clock = Clock()
    etcd.keys["members/b"] = follower("b")
    monkeypatch.setattr(remove_node, "time", clock)
    monkeypatch.setattr(remove_node, "listens", lambda *at: False)
    for step in ("_strike_off", "_await_slot", "_exclude"):
        monkeypatch.setattr(remove_node, step, lambda *how: "")
    return clock


def test_f59_a_node_that_is_only_cut_off_from_here_is_not_removed(etcd: Played, silent: Clock) -> None:
    told: list[dict[str, Any]] = []
    with pytest.raises(VerbError, match=r"^remove-node b: it is still running: it reports to etcd, though it does not"):
        remove_node.remove_node(SETTINGS, "a", "b", on_step=told.append)
    assert [row["outcome"] for row in told] == ["failed"] + ["not reached"] * 4
    assert silent.now > SETTINGS.report_life + remove_node.EXPIRY, "a report of one that is off has run out by then"
    assert etcd.changed == 0


def test_f59_a_node_whose_report_runs_out_meanwhile_is_removed(
    etcd: Played, silent: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silent, "sleep", lambda seconds: etcd.keys.pop("members/b"))
    assert remove_node.remove_node(SETTINGS, "a", "b")["removed"] == "b"
    assert etcd.changed == 1
