"""Which machine of the cluster this one is."""

from __future__ import annotations

import socket
from pathlib import Path

from chefha_core.checked import SettingsError
from chefha_core.settings import Settings


def run_folder(path: Path) -> None:
    """Make a folder below /run that several services share: whoever comes first may have a umask for itself alone."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)


def own_name(settings: Settings) -> str:
    """The member, or else the front end, whose address is on this machine; SettingsError if there is none."""
    machines = {**settings.members, **settings.frontends}
    for name, address in machines.items():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))  # only an own address can be bound
            except OSError:
                continue
            return name
    paths = "chefha:members" + (" and chefha:frontends" if settings.frontends else "")
    raise SettingsError(f"none of the addresses in pillar {paths} ({', '.join(machines.values())}) is on this machine")
