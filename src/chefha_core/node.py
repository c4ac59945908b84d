"""Which member of the cluster this machine is."""

from __future__ import annotations

import socket

from chefha_core.checked import SettingsError
from chefha_core.settings import Settings


def own_name(settings: Settings) -> str:
    """The member whose address is on this machine; SettingsError if there is none."""
    for name, address in settings.members.items():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))  # only an own address can be bound
            except OSError:
                continue
            return name
    raise SettingsError(
        f"none of the addresses in pillar chefha:members ({', '.join(settings.members.values())}) is on this machine"
    )
