"""The salt-minion of a member: restarted by systemd when it dies, and watching the leader key."""

from __future__ import annotations

from chefha_core.layout.wish import UNITS, Wish, folder, text_file
from chefha_core.settings import Settings

DROP_IN = """\
# The vendor's unit has no Restart=. A stop takes up to 12 seconds of waiting for nothing.
[Unit]
StartLimitIntervalSec=0

[Service]
Restart=always
RestartSec=1
TimeoutStopSec=15
"""


def minion(settings: Settings, name: str) -> list[Wish]:
    """The drop-in of salt-minion's unit."""
    return [
        folder(f"{UNITS}/salt-minion.service.d"),
        text_file(f"{UNITS}/salt-minion.service.d/chefha.conf", DROP_IN),
    ]
