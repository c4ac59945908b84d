"""bootstrap: the first node of a cluster, or the one that goes on alone after a loss of the quorum.

The first node's etcd begins as the only member of its cluster, and its leaderl (key ``bootstrap``) does not wait until
the others have reported that they have no data. It leads under the rule of one until another node has joined.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from chefha_core import codec
from chefha_core.etcd_formation import ALONE
from chefha_core.layout.etcd import UNIT, peer_url
from chefha_core.leaderl.client import Way
from chefha_core.model import EtcdView, LeaderState, PgState
from chefha_core.node import run_folder
from chefha_core.parts import salt_call
from chefha_core.parts.etcd import Compare, EtcdError, Put
from chefha_core.parts.etcd_members import heard_at
from chefha_core.parts.salt_call import SaltFailed
from chefha_core.search_start import ALONE as SEARCH_ALONE
from chefha_core.settings import Settings
from chefha_core.verbs import quorum_loss
from chefha_core.verbs.cluster_status import fetch
from chefha_core.verbs.etcd_access import root_client
from chefha_core.verbs.reach import VerbError, tls_files
from chefha_core.verbs.search_alone import answers
from chefha_core.verbs.steps import OnStep, Steps, nobody_looks

STEPS = ("etcd serves", "states applied", "this node leads", "search answers")
#: seconds for one question, and between two
DEADLINE, LOOK = 3.0, 0.3


def question(settings: Settings, name: str, quorum_loss_recovery: bool) -> str:
    """What a person has to agree to; VerbError if it would be refused."""
    if not quorum_loss_recovery:
        _refuse(settings, name)
        return f"{name} becomes the first node of cluster {settings.cluster}: a new database is made here"
    if refusal := quorum_loss.why_not(settings, name):
        raise VerbError(f"{quorum_loss.VERB}: {refusal}")
    return quorum_loss.in_words(name, quorum_loss.may_be_missing(settings))


def bootstrap(
    settings: Settings,
    name: str,
    quorum_loss_recovery: bool = False,
    etcd_wait: float = 30.0,
    search_wait: float = 30.0,
    on_step: OnStep = nobody_looks,
) -> dict[str, Any]:
    """Carry it out; VerbError. ``search_wait``: seconds until search answers, which is told and no failure."""
    if quorum_loss_recovery:
        return quorum_loss.recover(settings, name, etcd_wait, search_wait, on_step)
    _refuse(settings, name)
    steps = Steps(STEPS, on_step)
    try:
        with steps.step(STEPS[0]):
            _etcd(settings, name, etcd_wait)
        with steps.step(STEPS[1]):
            _states(settings, name)
    finally:
        for marker in (ALONE, SEARCH_ALONE):
            marker.unlink(missing_ok=True)
    with steps.step(STEPS[2]):
        view = _served(settings, name, etcd_wait)
        if view is None:
            raise VerbError(
                f"bootstrap: etcd does not serve this node after {etcd_wait:g} s; look at: chef-backend-ctl status"
            )
        key = view.leader
        if key is None or key.name != name or key.state is not LeaderState.LEADING:
            raise VerbError(f"bootstrap: {key.name if key else 'nobody'} leads; look at: journalctl -u chefha-leaderl")
    with steps.step(STEPS[3]):
        search = answers(settings, name, search_wait)
    return {"leader": name, "epoch": key.epoch, "search": search, "seconds": steps.seconds, "steps": steps.rows}


def _refuse(settings: Settings, name: str) -> None:
    if refusal := why_not(settings, name):
        raise VerbError(f"bootstrap: {refusal}")


def why_not(settings: Settings, name: str) -> str:
    """Why no cluster is made here, "" if it may be."""
    if (view := _look(settings, name)) is not None and (view.config or view.leader or view.last_epoch):
        leads = f"{view.leader.name} leads it" if view.leader else "nobody leads it: force-leader"
        return f"etcd knows this cluster already, and {leads}; to add this node use join-cluster"
    data = Path(settings.postgresql.data_dir)
    for path in (data, data.with_name(f"{data.name}.old")):
        if path.exists() and any(path.iterdir()):
            return f"there are data in {path}, and no database is made over data; move them away if nobody needs them"
    if view is None and (refusal := _knew(settings, name)):
        return refusal
    others = [other for other in settings.members if other != name]
    with ThreadPoolExecutor(len(others)) as pool:
        found = list(pool.map(lambda other: _knows(settings, other, view is not None), others))
    return "; ".join(reason for reason in found if reason)


def _knew(settings: Settings, name: str) -> str:
    """Why this node's own etcd, which does not serve, must not begin anew: "" where it has not been in a cluster yet.

    One that waits for a first formation has written a log, too; only the running one says which it is.
    """
    if settings.etcd_endpoints or not quorum_loss.has_etcd_data(settings):
        return ""
    at = settings.etcd.data_dir
    said = heard_at(peer_url(settings, name), tls_files(settings), DEADLINE)
    if said.formed:
        return (
            f"etcd has data of a cluster in {at}, and no quorum now; bring its other members up, or move its data away "
            "if nobody needs them"
        )
    if said.absent or said.problem:
        return (
            f"etcd has data in {at} and does not say whose: {said.problem or 'it does not run'}; start it, or move its "
            "data away if nobody needs them"
        )
    return ""


def _knows(settings: Settings, other: str, serves: bool) -> str:
    """What keeps this node from being the first, as another member has it; ``serves``: they share an etcd already."""
    if not settings.etcd_endpoints and not serves:
        said = heard_at(peer_url(settings, other), tls_files(settings), DEADLINE)
        if said.formed:
            return f"etcd of {other} is in a cluster, which may know this one; bring it up, or use join-cluster"
        if said.problem:
            return f"etcd of {other} does not say whether it is in a cluster: {said.problem}"
        if not said.absent:
            return f"etcd of {other} waits for a first formation: start this node's, and they form one"
    try:
        pg = fetch(Way.of(settings), other, DEADLINE).get("pg")
    except (OSError, ValueError):
        return ""
    return f"{other} has data; move them away, or begin there" if pg != PgState.EMPTY else ""


def _look(settings: Settings, name: str) -> EtcdView | None:
    """What etcd has, None where it does not serve."""
    try:
        client = root_client(settings, name, DEADLINE)
    except (EtcdError, VerbError, OSError):
        return None
    try:
        return codec.view(client.range(), time.monotonic())
    except EtcdError:
        return None
    except codec.DamagedKey as error:
        raise VerbError(f"bootstrap: etcd knows this cluster already, and {error}") from error
    finally:
        client.close()


def _served(settings: Settings, name: str, wait: float) -> EtcdView | None:
    """What etcd has, as soon as it serves; None if it does not within ``wait`` seconds."""
    end = time.monotonic() + wait
    while (view := _look(settings, name)) is None and time.monotonic() < end:
        time.sleep(LOOK)
    return view


def _etcd(settings: Settings, name: str, wait: float) -> None:
    """An etcd that serves, if it is laid out yet: else the states start it, as the only one."""
    if settings.etcd_endpoints or _look(settings, name) is not None:
        return
    for marker in (ALONE, SEARCH_ALONE):
        run_folder(marker.parent)
        marker.touch(mode=0o600)
    if Path(f"/etc/systemd/system/{UNIT}").exists():
        quorum_loss.start_alone(settings, name, wait)


def _states(settings: Settings, name: str) -> None:
    """Apply them, and ask leaderl for the first leader as soon as there is an etcd to write that to."""
    asked: list[bool] = []

    def ask() -> None:
        if not asked and _ask(settings, name):
            asked.append(True)

    try:
        # without the one that wants a majority of search nodes
        salt_call.apply('exclude=[{"id": "chefha_search_healthy"}]', meanwhile=ask)
    except SaltFailed as error:
        raise VerbError(f"bootstrap: {error}") from None


def _ask(settings: Settings, name: str) -> bool:
    try:
        client = root_client(settings, name, DEADLINE)
    except (EtcdError, VerbError, OSError):
        return False
    try:
        unknown = [Compare.absent("config"), Compare.absent("leader")]
        client.txn(unknown, [Put("bootstrap", name)])
        return True
    except EtcdError:
        return False
    finally:
        client.close()
