"""join-cluster --recovery: a member that was removed, or that the others went on without, or whose log is gone.

Its etcd was struck off and gets a new identity; its PostgreSQL follows, is rewound or cloned by leaderl, as ever.
"""

from __future__ import annotations

import datetime
import shutil
import time
from pathlib import Path
from typing import Any

from chefha_core.layout.etcd import UNIT, peer_url
from chefha_core.parts.etcd import EtcdError
from chefha_core.parts.etcd_members import confirmed_members
from chefha_core.settings import Settings
from chefha_core.verbs.etcd_access import root_client
from chefha_core.verbs.in_turn import own_etcd
from chefha_core.verbs.member import member_problem, wait_until_well
from chefha_core.verbs.reach import VerbError, leaderl_status
from chefha_core.verbs.steps import OnStep, Steps, nobody_looks
from chefha_core.verbs.systemd import systemctl

STEPS = ("the others know this node again", "its etcd serves", "this node follows")
LEADERL, POSTGRES = "chefha-leaderl.service", "chefha-postgresql.service"
#: seconds for one question, for etcd, until leaderl knows where it stands, and for all of it
DEADLINE, SERVES, LOOKS, TIMEOUT = 3.0, 90.0, 10.0, 5400.0


def rejoin(settings: Settings, name: str, on_step: OnStep = nobody_looks, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Carry it out; VerbError. What this node held and the leader never had is kept aside, if it is in the way."""
    steps = Steps(STEPS, on_step)
    kept: list[str] = []
    with steps.step(STEPS[0]):
        listed = _let_in(settings, name)
    with steps.step(STEPS[1]):
        if not settings.etcd_endpoints and own_etcd(settings, name):
            if not listed:
                systemctl("stop", UNIT)
                kept += put_aside(data := Path(settings.etcd.data_dir))
                data.mkdir(mode=0o700)
                shutil.chown(data, "etcd", "etcd")
            systemctl("restart", UNIT)
            wait_until_well(lambda: own_etcd(settings, name), min(SERVES, steps.left(timeout)))
    with steps.step(STEPS[2]):
        systemctl("restart", LEADERL)  # which forgets for how long it wanted to wait after failures
        if _blocked(LOOKS):
            systemctl("stop", LEADERL)
            try:
                systemctl("stop", POSTGRES)
                kept += put_aside(Path(settings.postgresql.data_dir))
            finally:
                systemctl("start", LEADERL)  # the others ask it, whatever stood in the way here
        wait_until_well(member_problem, steps.left(timeout))
    return {"node": name, "role": leaderl_status().get("role", ""), "kept_aside": kept, "seconds": steps.seconds,
            "steps": steps.rows}  # fmt: skip


def _let_in(settings: Settings, name: str) -> bool:
    """Take the mark of remove-node away; whether etcd lists this member still."""
    try:
        client = root_client(settings, name, DEADLINE)
        try:
            client.delete(f"removed/{name}")
            own = peer_url(settings, name)
            return any(one.name == name or own in one.peer_urls for one in confirmed_members(client))
        finally:
            client.close()
    except EtcdError as error:
        raise VerbError(f"join-cluster --recovery: the others' etcd does not answer with a quorum: {error}") from None


def _blocked(seconds: float) -> bool:
    """Whether leaderl leaves the data alone because what they hold is not the cluster's."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.5)
        try:
            if (role := leaderl_status().get("role")) in ("follower", "leader", "blocked"):
                return bool(role == "blocked")
        except VerbError:
            continue  # it is just starting
    return False


def put_aside(data: Path) -> list[str]:
    """Give a directory another name beside it; [that], [] where there is none. VerbError."""
    at = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    aside = data.with_name(f"{data.name}.before-{at}")
    try:
        data.rename(aside)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise VerbError(f"{data} cannot be renamed to {aside}: {error.strerror}") from None
    return [str(aside)]
