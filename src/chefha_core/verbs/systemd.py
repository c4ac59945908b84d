"""systemctl, for verbs."""

from __future__ import annotations

import subprocess

from chefha_core.verbs.reach import VerbError


def systemctl(action: str, *units: str) -> None:
    """VerbError if it fails."""
    done = subprocess.run(["systemctl", action, *units], capture_output=True, text=True, check=False)
    if done.returncode:
        raise VerbError(f"systemctl {action} {' '.join(units)} failed: {' '.join(done.stderr.split())}")
