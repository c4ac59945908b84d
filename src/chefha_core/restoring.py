"""What act does in etcd for a restoration: refuse it, or make the restored data the cluster's."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import TYPE_CHECKING

from chefha_core import codec
from chefha_core.model import LeaderKey, LeaderState, Lease, Observation
from chefha_core.parts.etcd import Compare, Delete, EtcdError, Put
from chefha_core.parts.postgres_tools import PostgresError
from chefha_core.plan.commands import ClearRestore, PublishRestore

if TYPE_CHECKING:
    from chefha_core.act import Actor

log = logging.getLogger(__name__)


def clear(actor: Actor, command: ClearRestore, seen: Observation) -> None:
    """Delete the request and leave why as its result."""
    assert seen.etcd is not None and seen.etcd.restore is not None
    request = seen.etcd.restore
    unchanged = Compare.mod_revision("restore", request.mod_revision)
    actor.etcd.txn([unchanged], [Delete("restore"), _result(request.system_id, "refused", command.reason)])


def publish(actor: Actor, command: PublishRestore) -> None:
    """One transaction: system identifier, new epoch with its timeline, and the sync rule; or nothing."""
    request = command.request
    kv = actor.etcd.get("config")
    if kv is None:
        raise EtcdError("etcd has no configuration of this cluster any more")
    if actor.postgres.staged() != request.system_id:
        raise PostgresError(f"the restored data of {request.by} was withdrawn")
    before, cause = codec.cluster_config(kv), f"restored from {request.source or 'an archive'}"
    former = tuple(dict.fromkeys((*before.former, before.system_id)))
    config = dataclasses.replace(before, system_id=request.system_id, former=former)
    key = LeaderKey(actor.name, command.epoch, LeaderState.LEADING, request.timeline)
    history = codec.new_history(command.epoch, actor.name, actor.name, cause, request.timeline)
    also = (
        Put("config", codec.dump(config)),
        Put("sync", codec.dump(command.sync)),
        Put(f"history/{command.epoch}", json.dumps(history)),
        _result(request.system_id, "restored", cause),
        Delete("restore"),
        Delete("intent"),
    )
    unchanged = (
        Compare.mod_revision("restore", request.mod_revision),
        Compare.mod_revision("config", kv.mod_revision),
        Compare.absent(f"history/{command.epoch}"),
    )
    sent_at = actor.write_key(key, command.expect, also, unchanged)
    memory = actor.memory
    memory.lease = Lease(command.epoch, sent_at)
    memory.took_at, memory.restarts, memory.handed_over = sent_at, 0, False
    log.info("%s: system identifier %s is the cluster's from epoch %d on", cause, request.system_id, command.epoch)


def _result(system_id: str, outcome: str, reason: str) -> Put:
    return Put("restore_result", json.dumps({"system_id": system_id, "outcome": outcome, "reason": reason}))
