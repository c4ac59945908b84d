"""Who may do what in etcd: one user of the members, who has only the cluster's own keys, and root.

What is missing is found by reading, as a list of steps; carrying them out twice, or by three members at once, does no
harm. docs/etcd.md explains the users' names and the exchange of their passwords.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chefha_core.parts.etcd import EtcdClient, EtcdRefused, NotAccepted, encode, key_range
from chefha_core.settings import Settings

ROOT = "root"
#: the key that names the members' user of now, written before that user is made: see ``forget_others``
KEY = "access"


def member_user(settings: Settings) -> str:
    """The members' user; a new password is a new user, so that nobody who still has the old one is locked out."""
    password = settings.secrets.etcd_password
    if not password:
        return ""
    return f"{_stem(settings)}-{hashlib.sha256(password.encode()).hexdigest()[:8]}"


def _stem(settings: Settings) -> str:
    return f"chefha-{settings.cluster}"


@dataclass(frozen=True)
class Wanted:
    """How it shall be."""

    role: str
    user: str
    password: str
    root_password: str
    prefix: str

    def __repr__(self) -> str:
        return f"Wanted({self.user!r}, …)"


@dataclass(frozen=True)
class Found:
    """How it is. ``users``: the roles of root and of the members' user, as far as these two exist."""

    enabled: bool = False
    roles: frozenset[str] = frozenset()
    granted: bool = False
    users: Mapping[str, frozenset[str]] = field(default_factory=dict)
    user_accepted: bool = False
    root_accepted: bool = False
    named: str = ""


@dataclass(frozen=True)
class Step:
    """One change, in words and as a question to etcd."""

    what: str
    path: str
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)


def wanted(settings: Settings) -> Wanted:
    """What the settings ask for."""
    secrets, prefix = settings.secrets, f"/chefha/{settings.cluster}/"
    return Wanted(_stem(settings), member_user(settings), secrets.etcd_password, secrets.etcd_root_password, prefix)


def missing(want: Wanted, found: Found) -> list[Step]:
    """What leads from ``found`` to ``want``, in order; [] if nothing is missing."""
    user, role = want.user, want.role
    new_user, new_root = user not in found.users, ROOT not in found.users
    table: list[tuple[bool, str, str, dict[str, Any]]] = [
        (found.named != user, f"key {KEY} names {user}", "/v3/kv/put",
         {"key": encode(want.prefix + KEY), "value": encode(json.dumps({"user": user}))}),
        (role not in found.roles, f"role {role}", "/v3/auth/role/add", {"name": role}),
        (not found.granted, f"role {role} may read and write {want.prefix}", "/v3/auth/role/grant",
         {"name": role, "perm": {"permType": "READWRITE", **key_range(want.prefix)}}),
        (new_user, f"user {user}", "/v3/auth/user/add", {"name": user, "password": want.password}),
        (not new_user and not found.user_accepted, f"password of user {user}", "/v3/auth/user/changepw",
         {"name": user, "password": want.password}),
        (role not in found.users.get(user, ()), f"user {user} has role {role}", "/v3/auth/user/grant",
         {"user": user, "role": role}),
        (ROOT not in found.roles, "role root", "/v3/auth/role/add", {"name": ROOT}),
        (new_root, "user root", "/v3/auth/user/add", {"name": ROOT, "password": want.root_password}),
        (not new_root and not found.root_accepted, "password of user root", "/v3/auth/user/changepw",
         {"name": ROOT, "password": want.root_password}),
        (ROOT not in found.users.get(ROOT, ()), "user root has role root", "/v3/auth/user/grant",
         {"user": ROOT, "role": ROOT}),
        (not found.enabled, "authentication is on", "/v3/auth/enable", {}),
    ]  # fmt: skip
    return [Step(what, path, body) for needed, what, path, body in table if needed]


def look(root: EtcdClient, member: EtcdClient, want: Wanted) -> Found:
    """How it is, as ``root`` sees it and as ``member`` is received. EtcdError."""
    roles = frozenset(root.call("/v3/auth/role/list", {}).get("roles", ()))
    names = frozenset(root.call("/v3/auth/user/list", {}).get("users", ()))
    enabled = root.logs_in()
    named = root.get(KEY)
    return Found(
        enabled=enabled,
        roles=roles,
        granted=want.role in roles and _granted(root, want),
        users={name: _roles(root, name) for name in (ROOT, want.user) if name in names},
        user_accepted=enabled and want.user in names and _accepted(member),
        root_accepted=enabled and not root.login.by_former,
        named=_named(named.value) if named else "",
    )


def carry_out(root: EtcdClient, steps: Sequence[Step]) -> None:
    """All steps in order; what another member has done meanwhile is as good. EtcdError."""
    for step in steps:
        try:
            root.call(step.path, step.body)
        except EtcdRefused as refusal:
            if "already exists" not in str(refusal):
                raise


def forget_others(root: EtcdClient, settings: Settings) -> tuple[str, ...]:
    """Delete the members' former users; their names. EtcdError.

    Only the caller knows that nobody uses them any more. A user being made at this very moment is not among them:
    its name is in ``KEY`` before it exists, and the key is read after the list.
    """
    own = member_user(settings)
    users = root.call("/v3/auth/user/list", {}).get("users", ())
    former = [user for user in users if re.fullmatch(rf"{re.escape(_stem(settings))}-[0-9a-f]{{8}}", user)]
    named = root.get(KEY) if any(user != own for user in former) else None
    if named is None or _named(named.value) != own:
        return ()
    gone = tuple(user for user in former if user != own)
    for user in gone:
        root.call("/v3/auth/user/delete", {"name": user})
    return gone


def _granted(root: EtcdClient, want: Wanted) -> bool:
    mine = {"permType": "READWRITE", **key_range(want.prefix)}
    return mine in root.call("/v3/auth/role/get", {"role": want.role}).get("perm", ())


def _roles(root: EtcdClient, name: str) -> frozenset[str]:
    return frozenset(root.call("/v3/auth/user/get", {"name": name}).get("roles", ()))


def _accepted(member: EtcdClient) -> bool:
    try:
        return member.logs_in()
    except NotAccepted:
        return False


def _named(value: str) -> str:
    try:
        return str(json.loads(value)["user"])
    except (ValueError, KeyError, TypeError):  # overwritten by hand: written again
        return ""
