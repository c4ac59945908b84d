"""bootstrap --quorum-loss-recovery: the one member that is left goes on alone, and the others join it later.

etcd starts once with ``force-new-cluster``: it keeps all keys and users, and strikes the other members off. One of them
that comes back with its old data is told so, and ends by itself. Then this node is made the leader (key ``force``)
under the rule of one (key ``alone``): it waits for nobody, and nobody else can be elected before another node has
everything, see plan/durability.py.
"""

from __future__ import annotations

import datetime
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from chefha_core import codec
from chefha_core.etcd_formation import ALONE
from chefha_core.layout.etcd import UNIT, peer_url
from chefha_core.model import EtcdView, LeaderKey, LeaderState
from chefha_core.node import run_folder
from chefha_core.parts.etcd import EtcdClient, EtcdError, EtcdMember, Put
from chefha_core.parts.etcd_members import confirmed_members, heard_at
from chefha_core.settings import Settings
from chefha_core.verbs.etcd_access import root_client
from chefha_core.verbs.force_leader import LOOK, ask, await_leader
from chefha_core.verbs.reach import PATIENCE, VerbError, etcd_client, leaderl_status, tls_files
from chefha_core.verbs.search_alone import go_on_alone
from chefha_core.verbs.steps import OnStep, Steps, nobody_looks
from chefha_core.verbs.systemd import systemctl

VERB = "bootstrap --quorum-loss-recovery"
STEPS = (
    "etcd's old data are copied",
    "etcd runs with this member alone",
    "leadership asked for",
    "this node leads",
    "search goes on alone",
)
#: seconds for one question to another machine
ASKED = 2.0


def why_not(settings: Settings, name: str) -> str:
    """Why the quorum is not recovered from this node, "" if it may be."""
    if settings.etcd_endpoints:
        return "etcd is your own (pillar chefha:etcd_endpoints); give it a quorum by its own means, then force-leader"
    if not has_etcd_data(settings):
        return f"there are no data of etcd in {settings.etcd.data_dir}; a node without them joins: join-cluster"
    if not (Path(settings.postgresql.data_dir) / "PG_VERSION").exists():
        return f"there are no data of PostgreSQL in {settings.postgresql.data_dir}; a node without them cannot lead"
    if members := serving(settings, name):
        others = [member.name or member.id_hex for member in members if member.name != name]
        if others:
            return (
                f"etcd has a quorum (members: {name}, {', '.join(sorted(others))}); where nobody leads use "
                "force-leader, for a node that is gone remove-node"
            )
    return others_answer(settings, name)


def others_answer(settings: Settings, name: str) -> str:
    """Which other member's etcd or leaderl answers, "" if none does."""
    others = [other for other in settings.members if other != name]
    with ThreadPoolExecutor(len(others)) as pool:
        found = [answer for answer in pool.map(lambda other: _answers(settings, other), others) if answer]
    if not found:
        return ""
    return f"{'; '.join(found)}; bring etcd's quorum back by them, or stop them for good before this node goes on alone"


def _answers(settings: Settings, other: str) -> str:
    said = heard_at(peer_url(settings, other), tls_files(settings), ASKED)
    if not said.absent:
        return f"etcd of {other} answers at {peer_url(settings, other)}"
    at = (settings.members[other], settings.leaderl.http_port)
    return f"leaderl of {other} answers at {at[0]}:{at[1]}" if listens(*at) else ""


def listens(address: str, port: int, timeout: float = ASKED) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((address, port), timeout).close()
    except OSError:
        return False
    return True


def serving(settings: Settings, name: str) -> tuple[EtcdMember, ...]:
    """The members of an etcd that serves this node, () without a quorum."""
    try:
        client = root_client(settings, name, PATIENCE)
    except (EtcdError, VerbError):
        return ()
    try:
        return confirmed_members(client)
    except EtcdError:
        return ()
    finally:
        client.close()


def may_be_missing(settings: Settings) -> dict[str, str]:
    """The last known position of each member, by leaderl's memory; for whoever has to decide."""
    try:
        said = leaderl_status()
    except VerbError:
        said = {}
    heard = said.get("last_heard") or {}
    return {member: str(heard.get(member) or "unknown") for member in settings.members}


def in_words(name: str, positions: dict[str, str]) -> str:
    """The question that a person answers before the verb goes on."""
    known = ", ".join(f"{member} at {position}" for member, position in positions.items() if member != name)
    return (
        f"{name} becomes the only member of its cluster. What it lacks is lost: it is at {positions[name]}, last known "
        f"were {known} (timeline:position). The others must be off; they join again with join-cluster --recovery."
    )


def recover(
    settings: Settings,
    name: str,
    etcd_wait: float = 30.0,
    search_wait: float = 30.0,
    on_step: OnStep = nobody_looks,
) -> dict[str, Any]:
    """Carry it out; VerbError. A second attempt goes on where the first one ended."""
    if refusal := why_not(settings, name):
        raise VerbError(f"{VERB}: {refusal}")
    positions, steps, kept = may_be_missing(settings), Steps(STEPS, on_step), ""
    if not serving(settings, name):
        kept = _reset(settings, name, etcd_wait, steps)
    timeout = settings.ttl * 2 + settings.leaderl.start_timeout_seconds
    client = etcd_client(settings, name, PATIENCE)
    try:
        with steps.step(STEPS[2]):
            lease = _ask(client, settings, name, timeout)
        with steps.step(STEPS[3]):
            after = await_leader(client, name, lease, timeout, VERB)
    except (EtcdError, codec.DamagedKey) as error:
        raise VerbError(f"{VERB}: etcd was reset to this member and does not serve it: {error}; try again") from error
    finally:
        client.close()
    with steps.step(STEPS[4]):
        search = go_on_alone(settings, name, search_wait)
    return {
        "leader": name,
        "epoch": after.leader.epoch if after.leader else 0,
        "last_known": positions,
        "etcd_data_kept": kept,
        "search": search,
        "seconds": steps.seconds,
        "steps": steps.rows,
    }


def _reset(settings: Settings, name: str, wait: float, steps: Steps) -> str:
    """etcd with this member alone; where its old data were copied to."""
    with steps.step(STEPS[0]):
        systemctl("stop", UNIT)
        try:
            kept = keep_aside(Path(settings.etcd.data_dir))
        except VerbError:
            systemctl("start", UNIT)
            raise
    with steps.step(STEPS[1]):
        start_alone(settings, name, wait)
    return kept


def start_alone(settings: Settings, name: str, wait: float) -> None:
    """Start etcd as the only member of its cluster, and wait until it serves. VerbError."""
    run_folder(ALONE.parent)
    ALONE.touch(mode=0o600)
    try:
        systemctl("restart", UNIT)
        end = time.monotonic() + wait
        while [member.name for member in serving(settings, name)] != [name]:
            if time.monotonic() > end:
                at = f"look at: journalctl -u {UNIT}"
                raise VerbError(f"bootstrap: etcd does not serve with {name} alone after {wait:g} s; {at}")
            time.sleep(LOOK)
    finally:
        ALONE.unlink(missing_ok=True)  # no later start may forget the others


def keep_aside(data: Path) -> str:
    """A copy of a directory beside it, with owners and rights; its path. VerbError."""
    at = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    copy = data.with_name(f"{data.name}.before-{at}")
    done = subprocess.run(["cp", "-a", str(data), str(copy)], capture_output=True, text=True, check=False)
    if done.returncode:
        subprocess.run(["rm", "-rf", str(copy)], check=False)
        raise VerbError(f"{data} cannot be copied to {copy}, so nothing was changed: {' '.join(done.stderr.split())}")
    return str(copy)


def _ask(client: EtcdClient, settings: Settings, name: str, timeout: float) -> int:
    """Say in etcd that this node is alone, and that it shall lead where another one did; the lease of that, or 0."""
    view: EtcdView = codec.view(client.range(), time.monotonic())
    alone = (Put("alone", name),) if settings.durability == "quorum" else ()
    if _is_its_own(view.leader, name):
        if alone:
            client.put("alone", name)
        return 0
    return ask(client, view, name, accept_data_loss=True, timeout=timeout, also=alone)


def _is_its_own(key: LeaderKey | None, name: str) -> bool:
    return key is not None and key.name == name and key.state is not LeaderState.RELEASING


def has_etcd_data(settings: Settings) -> bool:
    """Whether this member's etcd has a log: it was started once, though perhaps never in a cluster."""
    return any(Path(settings.etcd.data_dir).glob("member/wal/*.wal"))
