"""Verbs that ask in etcd, on one that is played: what they say where somebody damaged it, and where nobody obeys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.plan_builder import KEY

from chefha_core import codec
from chefha_core.model import ClusterConfig, EtcdView, Restoration
from chefha_core.parts.etcd import KeyValue, Snapshot, TxnResult
from chefha_core.settings import Secrets, Settings
from chefha_core.verbs import handover, restore_watch, switches
from chefha_core.verbs.reach import VerbError

SETTINGS = Settings(
    members={"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}, vip="127.0.0.9", secrets=Secrets("s", "r", "t")
)


class Played:
    """etcd with these keys, whose transactions succeed and change nothing."""

    def __init__(self, **keys: str) -> None:
        self.keys, self.changed = keys, 0

    def get(self, key: str) -> KeyValue | None:
        return self.range().kvs.get(key)

    def range(self) -> Snapshot:
        return Snapshot(9, {key: KeyValue(key, value, 1, 5, 1, 0) for key, value in self.keys.items()})

    def txn(self, *what: Any) -> TxnResult:
        self.changed += 1
        return TxnResult(True, 10)

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
    handover._refused_by_leader(kvs, EtcdView(9, leader=KEY), KEY.epoch, "b")
    restore_watch._refused(codec.told(kvs.kvs, "restore_result"), EtcdView(9), Restoration("a", 3, "7", 2, "x"))


def test_what_leaderl_wrote_down_is_read() -> None:
    said = {"epoch": KEY.epoch, "outcome": "refused", "reason": "b is behind"}
    with pytest.raises(VerbError, match="b is behind"):
        handover._refused_by_leader(
            Played(intent_result=json.dumps(said)).range(), EtcdView(9, leader=KEY), KEY.epoch, "b"
        )
