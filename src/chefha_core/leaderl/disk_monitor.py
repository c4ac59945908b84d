"""Watches PostgreSQL's storage from a thread of its own, and says when it is in trouble: not at the first failure."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from chefha_core.parts.disks import Disk, DiskProbe, Look, ProbeBroken
from chefha_core.settings import Settings

log = logging.getLogger(__name__)

#: room and good looks in a row that are asked for after trouble, as a multiple of what trouble begins at
REGAINED = 2


@dataclass(frozen=True)
class Limits:
    """When a look counts as a failure, and how many of them are trouble."""

    deadline: float
    failures: int
    #: bytes
    least_free: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """As the settings have it."""
        health = settings.leaderl.health_check
        return cls(health.disk_deadline_seconds, health.max_disk_failures, health.least_free_mb << 20)


@dataclass(frozen=True)
class Storage:
    """What all looks together say."""

    #: why PostgreSQL must not lead from here, "" if it may
    trouble: str = ""
    #: True while a write has not come back
    hangs: bool = False
    #: what was wrong with the last look, "" if nothing
    problem: str = ""
    #: looks in a row that failed, and that did not
    failures: int = 0
    successes: int = 0
    disks: tuple[Disk, ...] = ()


def judged(was: Storage, look: Look, limits: Limits) -> Storage:
    """What is to be said after one more look; pure. No text has a figure that changes while the trouble stays."""
    problem = _problem(look, limits, bool(was.trouble))
    failures = was.failures + 1 if problem else 0
    successes = 0 if problem else was.successes + 1
    if was.trouble:
        trouble = problem or (was.trouble if successes < REGAINED * limits.failures else "")
    else:
        trouble = problem if failures >= limits.failures else ""
    return Storage(trouble, bool(look.hangs), problem, failures, successes, look.disks or was.disks)


def _problem(look: Look, limits: Limits, in_trouble: bool) -> str:
    if look.hangs:
        return f"a write to {look.hangs} does not come back within {limits.deadline:g} s"
    for disk in look.disks:
        if disk.problem:
            return f"{disk.folder} cannot be written: {disk.problem}"
        if disk.seconds > limits.deadline:
            return f"a write to {disk.folder} took longer than {limits.deadline:g} s"
        for least in (limits.least_free, limits.least_free * (REGAINED if in_trouble else 1)):
            if 0 <= disk.free < least:
                return f"less than {least >> 20} MiB are free on {disk.folder}"
    return ""


class DiskMonitor(threading.Thread):
    """``storage`` is what all looks until now say."""

    def __init__(self, probe: DiskProbe, limits: Limits, interval: float, on_change: Callable[[Storage], None]) -> None:
        super().__init__(name="chefha-disks", daemon=True)
        self.probe, self.limits, self.interval, self.on_change = probe, limits, interval, on_change
        self.storage = Storage()
        self._broken = ""

    def run(self) -> None:
        """Looks for ever; goes on waiting at once for a write that hangs."""
        while True:
            try:
                self.look()
            except Exception:  # a thread that ends would report for ever what it saw last
                log.exception("a look at the disks failed")
            time.sleep(0.0 if self.storage.hangs else self.interval)

    def look(self) -> None:
        """Ask once, and tell what has become of it. A probe that is broken says nothing about the disks."""
        try:
            look, self._broken = self.probe.ask(self.limits.deadline), ""
        except ProbeBroken as error:
            if str(error) != self._broken:
                log.warning("%s", error)
            self._broken = str(error)
            return
        was, self.storage = self.storage, judged(self.storage, look, self.limits)
        now = self.storage
        if now.problem and not now.trouble and now.problem != was.problem:
            log.warning("storage: %s (%d of %d times)", now.problem, now.failures, self.limits.failures)
        if (now.trouble, now.hangs) != (was.trouble, was.hangs):
            if now.trouble != was.trouble:
                log.warning("storage: %s", now.trouble or "well again")
            self.on_change(now)


def disk_monitor(settings: Settings, on_change: Callable[[Storage], None]) -> DiskMonitor:
    """The monitor of this node's storage."""
    probe = DiskProbe(settings.postgresql.data_dir)
    interval = settings.leaderl.health_check.disk_interval_seconds
    return DiskMonitor(probe, Limits.of(settings), interval, on_change)
