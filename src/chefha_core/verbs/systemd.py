"""systemctl for verbs that wait until it is done, however long that takes; ``parts.systemd`` asks and goes on."""

from __future__ import annotations

import subprocess

from chefha_core.verbs.reach import VerbError


def systemctl(action: str, *units: str) -> None:
    """VerbError if it fails."""
    command = ["systemctl", action, *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VerbError(f"{' '.join(command)} failed: {' '.join(done.stderr.split())}")
