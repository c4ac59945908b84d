"""What is in etcd as facts, also where somebody wrote something else there by hand (F38)."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tests.unit.plan_builder import KEY

from chefha_core import codec
from chefha_core.leaderl.memory import Memory
from chefha_core.model import ClusterConfig, EtcdView, Intent, MemberReport, PgState, Position, Restoration
from chefha_core.observe import read_etcd
from chefha_core.parts.etcd import KeyValue, Snapshot

GOOD = {
    "leader": codec.dump(KEY),
    "config": json.dumps({"system_id": "7", "failover": True, "of_a_later_version": 1}),
    "history/3": json.dumps({"epoch": 3, "timeline": 1}),
    "intent": json.dumps({"to": "b", "by": "x", "epoch": 3}),
}


def snapshot(**changes: str) -> Snapshot:
    values = {**GOOD, **{name.replace("__", "/"): value for name, value in changes.items()}}
    return Snapshot(9, {key: KeyValue(key, value, 1, 5, 1, 0) for key, value in values.items()})


def test_a_later_version_may_write_more() -> None:
    found = codec.view(snapshot(), 1.0)
    assert (found.leader, found.config and found.config.system_id, found.last_epoch) == (KEY, "7", 3)


def test_f56_every_key_that_members_share_may_have_more_in_it() -> None:
    """In the middle of an upgrade the old read what the new write."""
    report = MemberReport("a", "192.0.2.1", PgState.STANDBY, "follower", Position(1, 7), streaming=True)
    kvs = {"leader": KEY, "members/a": report, "intent": Intent("b", "x", 3)}
    plain = {key: codec.dump(fact) for key, fact in kvs.items()}
    newer = {key: json.dumps({**json.loads(text), "of_a_later_version": [1]}) for key, text in plain.items()}
    old, new = (codec.view(snapshot(**texts), 1.0) for texts in (plain, newer))
    assert new == old and new.members == {"a": report} and new.leader == KEY and new.intent


@pytest.mark.parametrize("value", ["mine", "[]", "null", "{}", '{"name": "a"}'])
def test_f38_an_overwritten_leader_key_counts_as_deleted_at_its_revision(value: str) -> None:
    found = codec.view(snapshot(leader=value), 1.0)
    assert (found.leader, found.leader_revision) == (None, 5)


@pytest.mark.parametrize(
    "changes", [{"intent": "{}"}, {"members__a": '{"pg": "of a later version"}'}, {"candidates__a": "[]"},
                {"timelines__x": "a"}]
)  # fmt: skip
def test_f38_what_is_written_again_may_be_damaged(changes: dict[str, str]) -> None:
    found = codec.view(snapshot(**changes), 1.0)
    assert (found.leader, found.members, found.candidates) == (KEY, {}, {})


@pytest.mark.parametrize("changes", [{"config": "x"}, {"sync": "[]"}, {"history__4": "not JSON"}, {"history__4": "[]"}])
def test_f38_what_the_cluster_agreed_on_is_never_guessed(changes: dict[str, str]) -> None:
    class Etcd:
        timeout = 1.0

        def range(self, timeout: Any = None) -> Snapshot:
            return snapshot(**changes)

    with pytest.raises(codec.DamagedKey, match="delete it by hand"):
        codec.view(snapshot(**changes), 1.0)
    assert read_etcd(Etcd(), Memory(last_view=EtcdView(1)), ttl=3.0) is None  # type: ignore[arg-type]


def test_a_request_is_as_old_as_its_first_sight() -> None:
    first = codec.view(snapshot(), 1.0)
    assert codec.view(snapshot(), 2.0, first).intent_seen_at == 1.0
    other = snapshot(intent=json.dumps({"to": "c", "by": "x", "epoch": 3}))
    assert codec.view(other, 3.0, first).intent_seen_at == 3.0


def test_a_restoration_and_former_system_identifiers_come_back_as_they_were_written() -> None:
    asked = Restoration("a", 3, "8", 5, "chef-backup.tar.zst")
    config = ClusterConfig("7", failover=False, former=("5", "6"))
    found = codec.view(snapshot(restore=codec.dump(asked), config=codec.dump(config)), 1.0)
    assert (found.restore, found.config) == (dataclasses.replace(asked, mod_revision=5), config)
    assert found.restore_seen_at == 1.0
    later = codec.view(snapshot(restore=codec.dump(asked)), 2.0, found)
    assert (later.restore_seen_at, later.config and later.config.former) == (1.0, ())
    assert codec.view(snapshot(restore="by hand"), 1.0).restore is None
