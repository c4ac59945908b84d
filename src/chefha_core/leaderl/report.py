"""Tells etcd what this member is, from a thread of its own so that a slow report never delays a renewal."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from chefha_core import codec
from chefha_core.model import MemberReport
from chefha_core.parts.etcd import EtcdClient, EtcdError

log = logging.getLogger(__name__)


class Reporter(threading.Thread):
    """Writes ``members/NAME`` on a lease, so that the report of a dead member vanishes."""

    def __init__(
        self, etcd: EtcdClient, name: str, report: Callable[[], MemberReport], interval: float, life: int
    ) -> None:
        super().__init__(name="chefha-report", daemon=True)
        self.etcd, self.key, self.report = etcd, f"members/{name}", report
        self.interval, self.life = interval, life
        self.bell = threading.Event()
        self._lease = 0
        self._kept_at = 0.0
        self._last: MemberReport | None = None
        self._failing = False

    def run(self) -> None:
        while True:
            try:
                self._once()
                self._failing = False
            except (EtcdError, OSError, ValueError) as error:
                if not self._failing:
                    log.warning("cannot report to etcd: %s", error)
                self._failing, self._lease = True, 0
            self.bell.wait(self.interval)
            self.bell.clear()

    def _once(self) -> None:
        now = time.monotonic()
        if self._lease and now - self._kept_at > self.life / 3:
            self._lease = self._lease if self.etcd.lease_keepalive(self._lease) else 0
            self._kept_at = now
        if not self._lease:
            self._lease, self._kept_at, self._last = self.etcd.lease_grant(self.life), now, None
        report = self.report()
        if report != self._last:
            self.etcd.put(self.key, codec.dump(report), lease=self._lease)
            self._last = report


def changed(a: MemberReport | None, b: MemberReport) -> bool:
    """True if ``b`` says something that others should hear at once, not only a new position."""
    return a is None or dataclasses.replace(a, position=None) != dataclasses.replace(b, position=None)
