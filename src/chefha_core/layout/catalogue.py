"""Every layout by the name of its state."""

from __future__ import annotations

from collections.abc import Callable

from chefha_core.checked import SettingsError
from chefha_core.layout.base import packages, settings_files, tls_files
from chefha_core.layout.etcd import etcd_member
from chefha_core.layout.leaderl import leaderl
from chefha_core.layout.minion import minion
from chefha_core.layout.postgresql import postgresql
from chefha_core.layout.wish import Wish
from chefha_core.settings import Settings, from_pillar

LAYOUTS: dict[str, Callable[[Settings, str], list[Wish]]] = {
    "settings": settings_files,
    "minion": minion,
    "packages": packages,
    "tls_files": tls_files,
    "etcd_member": etcd_member,
    "postgresql": postgresql,
    "leaderl": leaderl,
}


def layout(state: str, pillar: object, name: str) -> list[Wish]:
    """The wishes of one state for the member ``name``; SettingsError if the pillar is wrong."""
    return LAYOUTS[state](checked(pillar, name), name)


def checked(pillar: object, name: str) -> Settings:
    """Settings from the pillar, if ``name`` is a member and the certificates are good for all of them."""
    settings = from_pillar(pillar)
    if name not in settings.members:
        raise SettingsError(
            f"pillar chefha:members does not name this minion, {name}; it has {', '.join(sorted(settings.members))}"
        )
    if settings.tls.enabled:
        from chefha_core.secrets import check_certificate  # needs cryptography, which only states and gen-secrets do

        tls = settings.tls
        for problem in check_certificate(tls.ca, tls.certificate, tls.key, [*settings.members.values(), settings.vip]):
            raise SettingsError(f"pillar chefha:tls: {problem}; chef-backend-ctl gen-secrets prints a fresh set")
    return settings
