"""join-cluster: this machine becomes a peer of a cluster that is there, or is let in again (--recovery).

The states do the work, as in any highstate: etcd lets the machine in (etcd_formation), leaderl clones the leader. The
verb makes sure that nothing stands in the way, brings secrets where Salt has none, and waits until this node follows.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chefha_core import node_file
from chefha_core.checked import SettingsError
from chefha_core.model import PgState
from chefha_core.node import own_name
from chefha_core.parts import salt_call
from chefha_core.parts.salt_call import SaltFailed
from chefha_core.settings import SETTINGS_FILE, Settings, load
from chefha_core.verbs import rejoin
from chefha_core.verbs.member import WELL, member_problem, wait_until_well
from chefha_core.verbs.quorum_loss import listens
from chefha_core.verbs.reach import VerbError, leaderl_status, tls_files
from chefha_core.verbs.steps import OnStep, Steps, nobody_looks

STEPS = ("secrets and settings are here", "states applied", "this node follows")
#: seconds that it may take (a base backup takes its time), and for one question to Salt
TIMEOUT, ANSWERS = rejoin.TIMEOUT, 120.0


@dataclass(frozen=True)
class Wish:
    """What was asked for."""

    peer: str
    publish_address: str = ""
    vip_interface: str = ""
    secrets_file: str = ""
    recovery: bool = False
    timeout: float = TIMEOUT


@dataclass(frozen=True)
class Places:
    """Files and folders of this machine; other ones in tests."""

    settings: Path = SETTINGS_FILE
    node_file: Path = node_file.NODE_FILE
    interfaces: Path = Path("/sys/class/net")


def join_cluster(wish: Wish, on_step: OnStep = nobody_looks, places: Places = Places()) -> dict[str, Any]:
    """Carry it out; VerbError, and a refusal has changed nothing."""
    configured = places.settings.exists()
    if refusal := why_not(wish, configured, places):
        raise VerbError(f"join-cluster {wish.peer}: {refusal}")
    if wish.recovery:
        return rejoin.rejoin(*_node(wish, places), on_step, wish.timeout)
    brought = _secrets(wish, places)
    steps = Steps(STEPS, on_step)
    with steps.step(STEPS[0]):
        _bring(wish, brought, places)
    with steps.step(STEPS[1]):
        _apply_states(wish, steps.left(wish.timeout))
    with steps.step(STEPS[2]):
        _follow(wish, steps.left(wish.timeout))
    settings, name = _node(wish, places)
    role = leaderl_status().get("role", "")
    return {
        "node": name,
        "address": settings.members[name],
        "role": role,
        "seconds": steps.seconds,
        "steps": steps.rows,
    }


def why_not(wish: Wish, configured: bool, places: Places) -> str:
    """Why it is refused before anything is read from elsewhere, "" if it is not."""
    if wish.recovery and not configured:
        return (
            f"--recovery lets in again who was a member, and nothing is installed here ({places.settings} is not "
            "there); leave --recovery out"
        )
    if configured and (wish.publish_address or wish.vip_interface):
        return (
            f"-p and -i are for a machine that is not configured, and {places.settings} is there; change pillar "
            "chefha:members or chefha:vip_interface and apply the states instead"
        )
    if wish.publish_address and not _is_here(wish.publish_address):
        return f"the address {wish.publish_address} (-p) is on no interface of this node; see: ip address"
    if wish.vip_interface and not (places.interfaces / wish.vip_interface).exists():
        found = ", ".join(sorted(path.name for path in places.interfaces.iterdir()))
        return f"there is no interface {wish.vip_interface} (-i) on this node; there are {found}"
    if configured and not wish.recovery and _member_already():
        return "this node is a member already; to let it in again after it was removed, or lost its log: --recovery"
    return ""


def _is_here(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _member_already() -> bool:
    """Whether that is certain: a new machine waits for a leader, too, but has no PostgreSQL that answers meanwhile."""
    try:
        said = leaderl_status()
    except VerbError:
        return False
    role, answers = said.get("role"), said.get("pg") in (PgState.STANDBY, PgState.PRIMARY)
    return role in (*WELL, "deposed_leader") or (answers and role in ("promoting", "waiting_for_leader"))


def _node(wish: Wish, places: Places) -> tuple[Settings, str]:
    try:
        settings = load(places.settings)
        name = own_name(settings)
    except SettingsError as error:
        raise VerbError(f"join-cluster {wish.peer}: {error}") from None
    if refusal := _about_the_peer(wish, settings.members, name, settings.leaderl.http_port):
        raise VerbError(f"join-cluster {wish.peer}: {refusal}")
    return settings, name


def _secrets(wish: Wish, places: Places) -> dict[str, Any]:
    """What the secrets file has, {} without one. VerbError."""
    if not wish.secrets_file:
        return {}
    path, asked = Path(wish.secrets_file).expanduser().absolute(), f"join-cluster {wish.peer}: the secrets file"
    if not path.exists():
        raise VerbError(f"{asked} {path} is missing; make it on a peer: chef-backend-ctl show-config --secrets FILE")
    data = _read(path, asked)
    try:
        here = _branches(node_file.read(places.node_file))  # which may have an interface alone
    except SettingsError as error:
        raise VerbError(f"join-cluster {wish.peer}: {error}") from None
    if any(here.get(branch) and value and here[branch] != value for branch, value in data.items()):
        raise VerbError(
            f"join-cluster {wish.peer}: there are other secrets here already, in {places.node_file}, which are not "
            "overwritten; move that file away first"
        )
    return data


def _branches(data: Mapping[str, Any]) -> dict[str, Any]:
    return {branch: data[branch] for branch in node_file.BRANCHES if branch in data}


def _read(path: Path, asked: str) -> dict[str, Any]:
    try:
        if path.stat().st_mode & 0o077:
            raise VerbError(f"{asked} {path} can be read by others than its owner; chmod 600 {path}")
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if text.lstrip().startswith("{") else _yaml(text)
    except (OSError, ValueError) as error:
        raise VerbError(f"{asked} {path} cannot be read: {error}") from None
    data = data.get("chefha", data) if isinstance(data, dict) else {}
    if not isinstance(data.get("secrets"), dict):
        raise VerbError(f"{asked} {path} has no branch `secrets`; make it anew: chef-backend-ctl show-config --secrets")
    return _branches(data)


def _yaml(text: str) -> Any:
    try:
        import yaml  # Salt's Python has it
    except ImportError:
        raise ValueError("it is no JSON, and there is no YAML in this Python") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:  # whose text quotes the line, which may be a secret
        mark = getattr(error, "problem_mark", None)
        raise ValueError("it is neither JSON nor YAML" + (f", see line {mark.line + 1}" if mark else "")) from None


def _bring(wish: Wish, brought: Mapping[str, Any], places: Places) -> None:
    """Put down what this machine brings along, and look whether that makes a member of it; else take it away again."""
    before = places.node_file.read_bytes() if places.node_file.exists() else None
    brings = {**brought, **({"vip_interface": wish.vip_interface} if wish.vip_interface else {})}
    try:
        if brings:
            node_file.write({**node_file.read(places.node_file), **brings}, places.node_file)
        patience = min(ANSWERS, wish.timeout)
        shown = salt_call.salt_call("chefha.validate_pillar", timeout=patience)
        name = str(salt_call.salt_call("grains.get", "id", timeout=patience))
        port = int(shown.get("leaderl", {}).get("http_port", 7331))
        if refusal := _about_the_peer(wish, shown["members"], name, port):
            raise VerbError(refusal)
    except (VerbError, SaltFailed, SettingsError, OSError) as error:
        if before is None:
            places.node_file.unlink(missing_ok=True)
        else:
            places.node_file.write_bytes(before)
        raise VerbError(f"join-cluster {wish.peer}: {error}; nothing was changed") from None


def _apply_states(wish: Wish, timeout: float) -> None:
    try:
        salt_call.apply(timeout=timeout)
    except SaltFailed as error:
        raise VerbError(f"join-cluster {wish.peer}: {error}") from None


def _follow(wish: Wish, timeout: float) -> None:
    try:
        wait_until_well(member_problem, timeout)
    except VerbError as error:
        raise VerbError(f"join-cluster {wish.peer}: {error}; it goes on by itself, see cluster-status") from None


def _about_the_peer(wish: Wish, members: Mapping[str, str], name: str, port: int) -> str:
    """Why this node cannot join by that peer, "" if it can."""
    own = members.get(name, "")
    others = {address: other for other, address in members.items() if other != name}
    if wish.publish_address in others:
        return f"the address {wish.publish_address} is registered already, for {others[wish.publish_address]}"
    if wish.publish_address and wish.publish_address != own:
        return (
            f"the address {wish.publish_address} is not the one that pillar chefha:members has for {name} ({own}); "
            "write it there first"
        )
    if wish.peer not in others and wish.peer not in others.values():
        listed = ", ".join(f"{other} {address}" for address, other in others.items())
        return f"{wish.peer} is no other member of the cluster in pillar chefha:members; the others are {listed}"
    peer = wish.peer if wish.peer in others else members[wish.peer]
    if not listens(peer, port):
        return f"leaderl of the peer does not answer at {peer}:{port}; name a member that runs"
    return ""


def write_secrets(settings: Settings, file: str) -> str:
    """For a peer that shall join: secrets and certificates of this node, in a file for its owner alone; its path."""
    path = Path(file).expanduser().absolute()
    data = {branch: value for branch, value in settings.to_dict().items() if branch in node_file.BRANCHES}
    try:
        data["tls"] = _certificates(settings)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            out.write(json.dumps({"chefha": data}, indent=2) + "\n")
    except FileExistsError:
        raise VerbError(f"show-config --secrets {path}: the file is there already and is not overwritten") from None
    except OSError as error:
        raise VerbError(f"show-config --secrets: {error.filename or path}: {error.strerror}") from None
    return str(path)


def _certificates(settings: Settings) -> dict[str, str]:
    """The texts that the states took out of the settings into files of their own; OSError."""
    files = tls_files(settings)
    if files is None:
        return {}
    named = {"ca": files.ca, "certificate": files.certificate, "key": files.key}
    return {name: Path(file).read_text(encoding="utf-8") for name, file in named.items()}
