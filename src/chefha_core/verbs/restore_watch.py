"""Watching a restoration that was asked for: leaderl carries it out, and the others clone the restored data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from chefha_core import codec
from chefha_core.model import EtcdView, LeaderState, PgState, Restoration
from chefha_core.parts.etcd import EtcdClient, EtcdError
from chefha_core.parts.postgres_tools import Places
from chefha_core.settings import Settings
from chefha_core.verbs.reach import VerbError

#: seconds between two looks
LOOK = 0.3
PUBLISHED = "the restored data is the cluster's"
SERVES = "the leader serves it"
FOLLOWED = "the others have cloned it and follow"
REMOVED = "the previous data is removed"
STEPS = (PUBLISHED, SERVES, FOLLOWED, REMOVED)


class NotRestored(VerbError):
    """It is certain that nobody will put the restored data in place."""


def await_restored(
    client: EtcdClient,
    settings: Settings,
    request: Restoration,
    until: float,
    places: Places,
    done: Callable[[str], None],
    going_on: Callable[[str, str], None],
) -> dict[str, Any]:
    """Until the cluster is whole with the restored data; VerbError if it is refused, or not whole ``until`` then."""
    reached = 0
    missing = "etcd did not answer"
    while time.monotonic() < until:
        try:
            snapshot = client.range()
            view = codec.view(snapshot, time.monotonic())
        except (EtcdError, codec.DamagedKey):
            time.sleep(LOOK)
            continue
        missing = _missing(view, settings, request, places, reached)
        if not missing:
            done(STEPS[reached])
            reached += 1
            if reached == len(STEPS):
                assert view.leader is not None
                away = sorted(set(settings.members) - set(view.members))
                return {
                    "leader": view.leader.name,
                    "epoch": view.leader.epoch,
                    "system_id": request.system_id,
                    "away": away,
                }
            continue
        if reached == 0:
            _refused(codec.told(snapshot.kvs, "restore_result"), view, request)
        going_on(f"waiting: {missing}", "")
        time.sleep(LOOK)
    raise VerbError(_late(reached, missing))


def _missing(view: EtcdView, settings: Settings, request: Restoration, places: Places, reached: int) -> str:
    """What is not there yet for the next step."""
    leader, config = view.leader, view.config
    if config is None or config.system_id != request.system_id or leader is None:
        return "leaderl has not exchanged the data"
    if reached == 0:
        return ""
    report = view.members.get(leader.name)
    if leader.state is not LeaderState.LEADING or report is None or report.pg is not PgState.PRIMARY or not report.vip:
        return f"{leader.name} does not serve it yet{': ' + report.reason if report else ''}"
    if reached == 1:
        return ""
    others = {name: report for name, report in view.members.items() if name != leader.name and name in settings.members}
    for name, report in sorted(others.items()):
        if report.system_id != request.system_id or not report.streaming:
            return f"{name} does not follow yet: {report.reason or report.role}"
    if not others and view.alone != leader.name:
        return "no other member reports, and commits wait for one"
    kept = places.replaced(request.system_id)
    if reached == 2 or len(others) < len(settings.members) - 1 or not kept.exists():
        return ""
    return f"{kept} is there yet"


def _refused(said: Mapping[str, Any], view: EtcdView, request: Restoration) -> None:
    """NotRestored if leaderl wrote down why it does not restore, or if nobody will."""
    if said.get("system_id") == request.system_id and said.get("outcome") == "refused":
        raise NotRestored(f"restore: {said.get('reason')}; the old data is served on")
    leader = view.leader
    over = leader is not None and leader.epoch != request.epoch
    if over and (view.config is None or view.config.system_id != request.system_id):
        raise NotRestored(
            f"restore: {leader.name if leader else 'another node'} was elected before the data was exchanged; "
            "the old data is served on, begin again on the leader"
        )


def _late(reached: int, missing: str) -> str:
    if reached == 0:
        return (
            f"restore: not exchanged in time ({missing}); if leaderl comes back, it may still do it: see cluster-status"
        )
    return (
        f"restore: the restored data is the cluster's, but not everything was reached in time: {missing}; "
        "it goes on by itself, see cluster-status"
    )
