"""systemd's units on this machine: how they are, and what is asked of them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

#: seconds that systemctl may take: it waits for no unit here
DEADLINE = 10.0


class UnitError(Exception):
    """What systemd refused, one sentence."""


@dataclass(frozen=True)
class UnitState:
    """One unit: ``active`` is systemd's word, ``pid`` 0 where no main process runs."""

    active: str
    pid: int
    enabled: str

    @property
    def running(self) -> bool:
        return self.active == "active"

    @property
    def down(self) -> bool:
        return self.active in ("inactive", "failed") and not self.pid


def look(unit: str) -> UnitState:
    """How the unit is; UnitError if systemd does not answer."""
    text = systemctl("show", "--property=ActiveState,MainPID,UnitFileState", unit)
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    pid = int(found.get("MainPID") or 0)
    return UnitState(found.get("ActiveState", "unknown"), pid, found.get("UnitFileState", "") or "unknown")


def ask(word: str, unit: str) -> None:
    """start, stop, restart: asked for, not waited for. UnitError if it is refused at once."""
    systemctl(word, "--no-block", unit)


def systemctl(*words: str) -> str:
    """What ``systemctl WORDS`` prints. UnitError."""
    try:
        done = subprocess.run(
            ["systemctl", "--no-pager", *words], capture_output=True, text=True, timeout=DEADLINE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnitError(f"systemctl {' '.join(words)}: {error}") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise UnitError(f"systemctl {' '.join(words)}: {reason[0] if reason else f'code {done.returncode}'}")
    return done.stdout


def journal(units: Sequence[str], lines: int) -> list[str]:
    """The last ``lines`` lines that the units logged."""
    chosen = [word for unit in units for word in ("--unit", unit)]
    command = ["journalctl", "--quiet", "--no-pager", "--output=short-iso", f"--lines={lines}", *chosen]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnitError(f"journalctl: {error}") from None
    return done.stdout.splitlines()
