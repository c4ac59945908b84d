"""All reading, once a round, into one frozen Observation. Changes nothing."""

from __future__ import annotations

import dataclasses
import logging
import time

from chefha_core import codec
from chefha_core.leaderl.memory import Memory
from chefha_core.model import EtcdView, Observation, PgFacts
from chefha_core.parts.address import Address
from chefha_core.parts.etcd import EtcdClient, EtcdError

log = logging.getLogger(__name__)

#: seconds that a read gets at least, when a lease ends
SHORTEST = 0.05


def read_etcd(etcd: EtcdClient, memory: Memory, ttl: float) -> EtcdView | None:
    """One linearizable read of the whole prefix; None, with a line in the log, without a quorum or with damaged keys.

    A leader does not wait for it past the end of its lease: then it has to stop leading, whatever etcd says later.
    """
    left = memory.lease.sent_at + ttl - time.monotonic() if memory.lease else etcd.timeout
    ends_meanwhile = -etcd.timeout < left < etcd.timeout  # or has just ended, and there may be much to stop
    try:
        snapshot = etcd.range(timeout=max(SHORTEST, left) if ends_meanwhile else None)
        now = time.monotonic()
        view = codec.view(snapshot, now, memory.last_view)
    except (EtcdError, codec.DamagedKey) as error:
        if memory.view is not None:
            log.warning("etcd does not answer: %s", error)
        return None
    if memory.view is None and memory.last_view is not None:
        log.info("etcd answers again")
    revision, heard_at = memory.heard
    if revision == view.leader_revision and heard_at < view.leader_changed_at:
        view = dataclasses.replace(view, leader_changed_at=heard_at)
    return view


def observe(
    name: str,
    etcd: EtcdClient,
    address: Address,
    pg: PgFacts,
    memory: Memory,
    job: str,
    paused: bool,
    ttl: float,
    staged: str = "",
) -> Observation:
    """What this node knows now; ``pg`` is the monitor's latest look, ``ttl`` the life of a lease in seconds."""
    view = read_etcd(etcd, memory, ttl)
    memory.saw(view, name)
    now = time.monotonic()
    probe, probe_age = memory.probed(now)
    return Observation(
        now=now,
        name=name,
        etcd=view,
        pg=pg,
        last_etcd=memory.last_view,
        lease=memory.lease,
        address=address.present(),
        address_taken_by=memory.address_taken_by,
        probe=probe,
        probe_age=probe_age,
        promised_until=memory.promised_until,
        paused=paused,
        job=job,
        retry_at=memory.retry_at,
        new_starts=memory.new_starts,
        failed_rejoins=memory.failed_rejoins,
        asked_to_converge=memory.asked_to_converge,
        took_at=memory.took_at,
        handed_over=memory.handed_over,
        asserted_at=memory.asserted_at,
        prepared_for=memory.prepared_for,
        restarts=memory.restarts,
        staged=staged,
        waits_since=memory.waits[1] if memory.waits[0] == pg.sync_names else 0,
        unfit=(memory.unfit if now < memory.unfit_until else "") or memory.search_unfit,
        asked_at=memory.asked_at,
        storage=memory.storage,
        storage_hangs=memory.storage_hangs,
        failover=memory.electable(name),
    )
