"""How the postmaster is started: by systemd, or, where there is none, as a process of its own.

Both refuse to start a primary without a one-time permit, which only ``Postgres.start`` writes: neither boot nor a
package nor somebody's ``systemctl start`` makes a second primary. The permit holds the second since boot until which
it is good, so one that was left behind is worth nothing either.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Protocol

from chefha_core.parts.postgres_tools import Places, PostgresError, spawn

#: seconds for which a permit is good
PERMIT_LIFE = 20
#: seconds that systemctl may take
DEADLINE = 5.0


class Unit(Protocol):
    """What starts the postmaster."""

    def start(self) -> None:
        """Ask for a start, without waiting for it; PostgresError if that is refused at once."""

    def cancel(self) -> None:
        """Drop a start that was asked for and has not happened."""

    def failed(self) -> bool:
        """True if the start that was asked for has ended in failure."""

    def last_words(self) -> str:
        """The last lines PostgreSQL logged, "; " between them."""


def write_permit(permit: Path) -> None:
    """Let a primary start once within ``PERMIT_LIFE`` seconds."""
    permit.parent.mkdir(parents=True, exist_ok=True)
    permit.write_text(f"{_uptime() + PERMIT_LIFE}\n", encoding="ascii")


def withdraw_permit(permit: Path) -> None:
    """Let no primary start."""
    permit.unlink(missing_ok=True)


def refusal(places: Places) -> str:
    """Why PostgreSQL must not start now; "" if it may, which uses the permit up."""
    try:
        until = int(places.permit.read_text(encoding="ascii"))
    except (OSError, ValueError):
        until = 0
    withdraw_permit(places.permit)
    if places.standby_signal.exists() or _uptime() <= until:
        return ""
    return f"PostgreSQL on {places.data} starts as a primary only when leaderl says so; see chef-backend-ctl status"


def _uptime() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


class SystemdUnit:
    """The unit that the states laid out (``layout.postgres_files.unit_text``)."""

    def __init__(self, name: str = "chefha-postgresql.service") -> None:
        self.name = name

    def start(self) -> None:
        with contextlib.suppress(PostgresError):  # or ``failed`` would see how the last run ended
            self._systemctl("reset-failed")
        # Between a killed postmaster and its restart the unit may be "deactivating": systemd then queues the start.
        self._systemctl("start", "--no-block")

    def cancel(self) -> None:
        for words in (("kill", "--signal=SIGKILL"), ("stop", "--no-block")):
            with contextlib.suppress(PostgresError):
                self._systemctl(*words)

    def failed(self) -> bool:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            state = subprocess.run(
                ["systemctl", "is-active", self.name], capture_output=True, text=True, timeout=DEADLINE
            ).stdout.strip()
            return state == "failed"
        return False

    def last_words(self) -> str:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            log = ["journalctl", "--unit", self.name, "--lines", "4", "--output", "cat", "--no-pager", "--quiet"]
            lines = subprocess.run(log, capture_output=True, text=True, timeout=2).stdout.splitlines()
            return "; ".join(line.strip() for line in lines if line.strip())
        return ""

    def _systemctl(self, *words: str) -> None:
        command = ["systemctl", *words, self.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PostgresError(f"{' '.join(command)} failed: {error}") from None
        if done.returncode:
            raise PostgresError(f"{' '.join(command)} failed: {done.stderr.strip() or done.returncode}")


class ChildUnit:
    """PostgreSQL as a process of its own in a session of its own; for tests and machines without systemd."""

    def __init__(self, places: Places, log: Path) -> None:
        self.places = places
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if problem := refusal(self.places):
            raise PostgresError(problem)
        config = f"config_file={self.places.config}"
        with self.log.open("ab") as output:
            self._process = spawn(self.places, ["postgres", "-D", str(self.places.data), "-c", config], output.fileno())

    def cancel(self) -> None:
        # It may not have reached its data directory yet, by which others would find it.
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def failed(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def last_words(self) -> str:
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 2000))
            lines = log.read().decode("utf-8", "replace").splitlines()
            return "; ".join(line.strip() for line in lines[-4:])
        return ""
