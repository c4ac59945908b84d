"""etcd's keys and values as facts, and facts as values. All values are JSON; the layout is in docs/etcd.md."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any, Protocol

from chefha_core.model import (
    Candidacy,
    ClusterConfig,
    EtcdView,
    Force,
    Intent,
    LeaderKey,
    LeaderState,
    MemberReport,
    PgState,
    Position,
    Restoration,
    SyncRule,
)


class KeyValue(Protocol):
    """What codec needs of a key-value pair."""

    @property
    def value(self) -> str: ...
    @property
    def mod_revision(self) -> int: ...


class Snapshot(Protocol):
    """What codec needs of one read of the prefix; keys are relative to it."""

    @property
    def revision(self) -> int: ...
    @property
    def kvs(self) -> Mapping[str, Any]: ...


class DamagedKey(ValueError):
    """A value under the cluster's prefix is not what chefha writes."""


def dump(fact: Any) -> str:
    """A dataclass of ``model`` (or a mapping) as the JSON that goes into etcd; ``mod_revision`` stays out."""
    data = dict(fact) if isinstance(fact, Mapping) else dataclasses.asdict(fact)
    data.pop("mod_revision", None)
    return json.dumps(data, sort_keys=True)


def view(snapshot: Snapshot, now: float, previous: EtcdView | None = None) -> EtcdView:
    """One read of the prefix as facts; ``previous`` carries on since when the leader key has not changed.

    What somebody overwrote by hand counts as deleted, for all that is written again: leader, intent, candidacies,
    reports. DamagedKey where that would forget what the cluster agreed on.
    """
    kvs = snapshot.kvs
    leader = _unless_damaged(kvs, "leader", leader_key)
    revision = kvs["leader"].mod_revision if "leader" in kvs else 0
    unchanged = previous is not None and previous.leader_revision == revision
    asked = _unless_damaged(kvs, "intent", intent)
    asked_before = previous is not None and previous.intent == asked
    restore = _unless_damaged(kvs, "restore", restoration)
    restored_before = previous is not None and previous.restore == restore
    history = _folder(kvs, "history/", history_row, decode).values()
    timelines = {timeline for _, timeline in history} | {
        int(key[10:]) for key in kvs if key.startswith("timelines/") and key[10:].isdigit()
    }
    return EtcdView(
        revision=snapshot.revision,
        leader=leader,
        leader_revision=revision,
        leader_changed_at=previous.leader_changed_at if previous and unchanged else now,
        candidates=_folder(kvs, "candidates/", candidacy),
        members=_folder(kvs, "members/", member_report),
        config=decode(kvs, "config", cluster_config),
        initialiser=kvs["initialiser"].value if "initialiser" in kvs else "",
        sync=decode(kvs, "sync", sync_rule),
        intent=asked,
        intent_seen_at=previous.intent_seen_at if previous and asked_before else now,
        restore=restore,
        restore_seen_at=previous.restore_seen_at if previous and restored_before else now,
        last_epoch=max([epoch for epoch, _ in history], default=0),
        last_timeline=max(timelines, default=0),
        timelines=frozenset(timelines | ({leader.timeline} if leader else set())),
        switched_off=_names(kvs, "switches/"),
        force=_unless_damaged(kvs, "force", force),
        alone=kvs["alone"].value if "alone" in kvs else "",
        removed=_names(kvs, "removed/"),
        bootstrap=kvs["bootstrap"].value if "bootstrap" in kvs else "",
    )


def leader_key(kv: KeyValue) -> LeaderKey:
    """The leader key's value as a fact."""
    data = json.loads(kv.value)
    return LeaderKey(**{**_known(LeaderKey, data), "state": LeaderState(data["state"])})


def candidacy(kv: KeyValue) -> Candidacy:
    """A candidacy's value as a fact."""
    data = json.loads(kv.value)
    return Candidacy(data["name"], int(data["epoch"]), Position(**data["position"]), bool(data["fit"]), kv.mod_revision)


def member_report(kv: KeyValue) -> MemberReport:
    """A member's report of itself as a fact."""
    data = _known(MemberReport, json.loads(kv.value))
    position = data.get("position")
    return MemberReport(**{**data, "pg": PgState(data["pg"]), "position": Position(**position) if position else None})


def sync_rule(kv: KeyValue) -> SyncRule:
    """The rule for acknowledgements and elections as a fact."""
    data = json.loads(kv.value)
    return SyncRule(tuple(data["voters"]), int(data["numsync"]), int(data["quorum"]))


def intent(kv: KeyValue) -> Intent:
    """A hand-over asked for, as a fact."""
    data = json.loads(kv.value)
    return Intent(data["to"], data["by"], int(data["epoch"]), kv.mod_revision)


def restoration(kv: KeyValue) -> Restoration:
    """A restoration asked for, as a fact."""
    return Restoration(**{**_known(Restoration, json.loads(kv.value)), "mod_revision": kv.mod_revision})


def force(kv: KeyValue) -> Force:
    """A leader asked for without an election, as a fact."""
    data = json.loads(kv.value)
    return Force(data["to"], data["by"], int(data["epoch"]), data["accept_data_loss"] is True, kv.mod_revision)


def cluster_config(kv: KeyValue) -> ClusterConfig:
    """What the cluster agreed on, as a fact."""
    data = _known(ClusterConfig, json.loads(kv.value))
    return ClusterConfig(**{**data, "former": tuple(data.get("former", ()))})


def new_history(epoch: int, leader: str, previous: str, cause: str, timeline: int) -> dict[str, Any]:
    """A row of history/; completed with the steps once the leader leads."""
    return {
        "epoch": epoch,
        "leader": leader,
        "previous": previous,
        "cause": cause,
        "timeline": timeline,
        "at": time.time(),
    }


def history_row(kv: KeyValue) -> tuple[int, int]:
    """Epoch and timeline of a row of the history."""
    data = json.loads(kv.value)
    return int(data.get("epoch", 0)), int(data.get("timeline", 0))


def _names(kvs: Mapping[str, Any], folder: str) -> frozenset[str]:
    """What is in a folder whose keys say all there is to say."""
    return frozenset(key[len(folder) :] for key in kvs if key.startswith(folder))


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Only the fields that ``kind`` has: a newer version may write more."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def told(kvs: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What leaderl wrote down about a request; {} if nothing, or if somebody overwrote it by hand."""
    return _unless_damaged(kvs, key, lambda kv: dict(json.loads(kv.value))) or {}


def decode(kvs: Mapping[str, Any], key: str, decoder: Any) -> Any:
    """One key by its decoder, None where it is not there. DamagedKey."""
    if key not in kvs:
        return None
    try:
        return decoder(kvs[key])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedKey(
            f"etcd key {key} holds {kvs[key].value[:80]!r}, which chefha did not write ({error}); delete it by hand"
        ) from error


def _unless_damaged(kvs: Mapping[str, Any], key: str, decoder: Any) -> Any:
    try:
        return decode(kvs, key, decoder)
    except DamagedKey:
        return None


def _folder(kvs: Mapping[str, Any], folder: str, decoder: Any, read: Any = _unless_damaged) -> dict[str, Any]:
    found = {key[len(folder) :]: read(kvs, key, decoder) for key in kvs if key.startswith(folder)}
    return {name: fact for name, fact in found.items() if fact is not None}
