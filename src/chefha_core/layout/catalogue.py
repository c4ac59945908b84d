"""Every layout by the name of its state."""

from __future__ import annotations

from collections.abc import Callable

from chefha_core.checked import SettingsError
from chefha_core.layout.base import packages, settings_files, tls_files
from chefha_core.layout.etcd import etcd_member
from chefha_core.layout.firewall import firewall
from chefha_core.layout.frontend import frontend_base, frontend_config, frontend_package
from chefha_core.layout.leaderl import leaderl
from chefha_core.layout.minion import minion
from chefha_core.layout.postgresql import postgresql
from chefha_core.layout.search import search
from chefha_core.layout.wish import Wish
from chefha_core.node_file import completed
from chefha_core.settings import Role, Settings, from_pillar

LAYOUTS: dict[str, Callable[..., list[Wish]]] = {
    "settings": settings_files,
    "minion": minion,
    "firewall": firewall,
    "packages": packages,
    "tls_files": tls_files,
    "etcd_member": etcd_member,
    "postgresql": postgresql,
    "search": search,
    "leaderl": leaderl,
    "frontend_base": frontend_base,
    "frontend_package": frontend_package,
    "frontend_config": frontend_config,
}


def layout(state: str, pillar: object, name: str, **facts: object) -> list[Wish]:
    """The wishes of one state for the machine ``name``; SettingsError if the pillar is wrong.

    ``facts``: what a layout must know that no pillar says.
    """
    return LAYOUTS[state](checked(pillar, name), name, **facts)


def checked(pillar: object, name: str) -> Settings:
    """Settings from the pillar, if it names ``name`` and the certificates are good for it."""
    pillar = completed(pillar)
    role = role_of(pillar, name)
    settings = from_pillar(pillar, role)
    if settings.tls.enabled and role == "backend":
        from chefha_core.authority import check_certificate  # needs cryptography, which only states and gen-secrets do

        tls = settings.tls
        addresses = [settings.members[name], settings.vip]
        own = bool(settings.etcd_endpoints)
        for problem in check_certificate(tls.ca, tls.certificate, tls.key, addresses, own_etcd=own):
            raise SettingsError(f"pillar chefha:tls: {problem}; salt-run chefha.secrets makes a fresh set")
    return settings


def role_of(pillar: object, name: str) -> Role:
    """Whether ``name`` is a back or a front end; SettingsError if the pillar is wrong or names it nowhere."""
    settings = from_pillar(pillar, "anybody")
    if name in settings.members:
        return "backend"
    if name in settings.frontends:
        return "frontend"
    known = ", ".join(sorted([*settings.members, *settings.frontends]))
    raise SettingsError(
        f"pillar chefha:members and chefha:frontends do not name this minion, {name}; they have {known}"
    )
