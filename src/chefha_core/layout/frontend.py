"""A front end: Chef's package, chef-server.rb, the authority's certificate. Chef does all else itself."""

from __future__ import annotations

from chefha_core.chef_server import chef_server_rb, fqdn_of
from chefha_core.layout.leaderl import command
from chefha_core.layout.repository import repository
from chefha_core.layout.wish import Wish, folder, text_file
from chefha_core.settings import Frontend, Settings

CHEF_SERVER_RB = "/etc/opscode/chef-server.rb"
HEADER = "# Written by chefha's states: changes here are lost, use pillar chefha:frontend:settings\n"
CACHE = "/var/cache/chefha"


def frontend_package(settings: Settings, name: str) -> list[Wish]:
    """Chef's package, from a file or from a repository."""
    return _from_file(settings.frontend) if settings.frontend.source else _from_repository(settings.frontend)


def _from_file(front: Frontend) -> list[Wish]:
    path = f"{CACHE}/{front.package}.deb"
    file = {"name": path, "source": front.source, "mode": "0644", "show_changes": False}
    if front.checksum:
        file["source_hash"] = front.checksum
    return [
        folder(CACHE),
        Wish("file.managed", file),
        Wish("pkg.installed", {"name": front.package, "sources": [{front.package: path}]}),
    ]


def _from_repository(front: Frontend) -> list[Wish]:
    # Debian's revision is Chef's business. The list of packages is refreshed only where something is to be installed.
    wanted = {front.package: f"{front.chef_server_version}*"}
    return [
        *repository("chefha-frontend", front.repository, front.repository_key),
        Wish("pkg.installed", {"name": front.package, "pkgs": [wanted], "refresh": True}),
    ]


def frontend_base(settings: Settings, name: str) -> list[Wish]:
    """The authority that the back end's certificate comes from, and chef-backend-ctl."""
    tls = settings.tls
    authority = [folder(tls.directory), text_file(f"{tls.directory}/ca.crt", tls.ca)] if tls.enabled else []
    return [*authority, *command(settings)]


def frontend_config(settings: Settings, name: str) -> list[Wish]:
    """chef-server.rb."""
    text = HEADER + chef_server_rb(settings, fqdn_of(settings, name))
    return [folder("/etc/opscode"), text_file(CHEF_SERVER_RB, text, mode="0600", secret=True)]
