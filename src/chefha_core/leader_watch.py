"""Watches the leader key and tells the Salt master of every change: what the beacon ``chefha_leader`` runs.

A thread of its own, one per process, because the minion's loop looks at beacons once a second only and must never wait.
Who reports, and when: the new leader's own minion at once; the others only if ``SECOND_VOICE`` later the new leader
does not lead yet, so that a lost event or a stopped minion is made up for and a reaction that works is not tripled.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chefha_core.checked import SettingsError
from chefha_core.parts.etcd import EtcdClient, EtcdError
from chefha_core.parts.etcd_watch import Doorbell
from chefha_core.settings import SETTINGS_FILE, Settings, load
from chefha_core.verbs.reach import etcd_client

log = logging.getLogger(__name__)

#: seconds after which a member that is not the new leader reports it too, unless it leads by then
SECOND_VOICE = 1.0
#: seconds without a tick of the beacon after which the watcher ends: it was taken out of the minion's configuration
ABANDONED = 60.0
#: events kept for the beacon's tick when the minion's bus could not be reached
KEPT = 100

Event = dict[str, Any]
#: puts one event on its way to the master; False if it could not
Fire = Callable[[Event], bool]


@dataclass(frozen=True)
class Key:
    """What counts of the leader key: renewals differ in nothing of this."""

    name: str
    epoch: int
    state: str


def key_of(value: str | None) -> Key | None:
    """The leader key's value; None if it is gone or is nothing that chefha wrote."""
    try:
        data = json.loads(value or "null")
        return Key(str(data["name"]), int(data["epoch"]), str(data["state"])) if data else None
    except (ValueError, KeyError, TypeError):
        return None


def cause(before: Key | None, now: Key | None) -> str:
    """Why a change of the leader key is worth an event, in words; "" if it is not. Pure."""
    if now is None:
        return f"the leader key of {before.name} is gone" if before else ""
    if before is None:
        return f"{now.name} is the first leader"
    if (now.name, now.epoch) != (before.name, before.epoch):
        how = "by a planned hand-over from" if before.state == "releasing" else "in place of"
        return f"{now.name} leads {how} {before.name}"
    if before.state == "releasing" and now.state != "releasing":
        return f"{now.name} goes on leading: the hand-over was given up"
    return ""


class Watcher:
    """The thread, its doorbell, and what is still to be told."""

    def __init__(self, settings: Settings, name: str, fire: Fire, client: EtcdClient | None = None) -> None:
        self.settings, self.name, self._fire = settings, name, fire
        self._client = client or etcd_client(settings, name, settings.request_timeout)
        self._wake = threading.Condition()
        self._changes: deque[str | None] = deque()
        self._later: tuple[float, Event] | None = None
        self._known: Key | None = None
        self._stopping = False
        self.unsent: deque[Event] = deque(maxlen=KEPT)
        self.ticked = time.monotonic()
        # The key is renewed every interval, so silence for a few of them means a hanging member.
        idle = max(5.0, 4 * settings.interval)
        self._bell = Doorbell(self._client, self._heard, on_gap=self._look, idle=idle)
        self._thread = threading.Thread(target=self._run, name="chefha-leader-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; what leads now is taken as known."""
        self._thread.start()

    def stop(self) -> None:
        """End both threads."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._bell.stop()

    def alive(self) -> bool:
        """False also in a process forked from the one that started it."""
        return self._thread.is_alive()

    def _heard(self, key: str, kind: str, value: str | None, revision: int, at: float) -> None:
        if key == "leader":
            with self._wake:
                self._changes.append(value)
                self._wake.notify()

    def _look(self) -> None:
        """Events were missed: take the key as it is now for one."""
        try:
            kv = self._client.get("leader")
        except EtcdError as error:
            log.info("leader key not read: %s", error)
            return
        with self._wake:
            self._changes.append(kv.value if kv else None)
            self._wake.notify()

    def _run(self) -> None:
        self._first_look()
        self._bell.start()
        while self._wait():
            while self._changes:
                self._changed(key_of(self._changes.popleft()))
            if self._later and time.monotonic() >= self._later[0]:
                self._tell(self._later[1])
                self._later = None
        self._bell.stop()
        self._client.close()

    def _first_look(self) -> None:
        """What leads when the watch begins is no change."""
        while not self._stopping:
            try:
                kv = self._client.get("leader")
                self._known = key_of(kv.value) if kv else None
                return
            except (EtcdError, OSError) as error:
                log.info("waiting for etcd before watching the leader key: %s", error)
                with self._wake:
                    self._wake.wait(1.0)

    def _wait(self) -> bool:
        """Until something is to be done; False when it is time to end."""
        with self._wake:
            if not self._changes:
                left = self._later[0] - time.monotonic() if self._later else ABANDONED / 4
                self._wake.wait(max(0.0, left))
            if time.monotonic() - self.ticked > ABANDONED:
                log.info("the beacon is not asked any more: no longer watching the leader key")
                return False
            return not self._stopping

    def _changed(self, now: Key | None) -> None:
        before, self._known = self._known, now
        if self._later and now and now.epoch == self._later[1]["epoch"] and now.state == "leading":
            self._later = None  # it leads: the reaction has worked
        why = cause(before, now)
        if not why:
            return
        event = {
            "cluster": self.settings.cluster,
            "leader": now.name if now else "",
            "previous": before.name if before else "",
            "epoch": now.epoch if now else (before.epoch if before else 0),
            "state": now.state if now else "gone",
            "cause": why,
            "members": sorted(self.settings.members),
            "reporter": self.name,
        }
        if now is None or now.name == self.name:
            self._tell(event)
        elif now.state != "leading":
            self._later = (time.monotonic() + SECOND_VOICE, event)

    def _tell(self, event: Event) -> None:
        try:
            sent = self._fire(event)
        except Exception:  # whatever Salt raises: the beacon's next tick tries its own way
            log.exception("event not put on the minion's bus")
            sent = False
        log.info("%s (epoch %s)", event["cause"], event["epoch"])
        if not sent:
            self.unsent.append(event)


_lock = threading.Lock()
_watcher: Watcher | None = None
#: when the settings that the watcher runs with were written
_settings_of = 0


def tick(name: str, fire: Fire, path: Path = SETTINGS_FILE) -> list[Event]:
    """What the beacon does once a second: see that the one watcher runs; the events that it could not send itself."""
    global _watcher, _settings_of
    with _lock:
        written, unsent = _written(path), tuple(_watcher.unsent if _watcher else ())
        if _watcher is not None and written not in (0, _settings_of):
            _watcher.stop()  # another password, perhaps, or other members
            _watcher = None
        if _watcher is None or not _watcher.alive():
            try:
                _watcher, _settings_of = Watcher(load(path), name, fire), written
            except SettingsError as error:
                log.debug("not watching the leader key: %s", error)
                return []
            _watcher.unsent.extend(unsent)
            _watcher.start()
        _watcher.ticked = time.monotonic()
        return [_watcher.unsent.popleft() for _ in range(len(_watcher.unsent))]


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def stop() -> None:
    """End the watcher of this process, if there is one."""
    global _watcher
    with _lock:
        if _watcher is not None:
            _watcher.stop()
        _watcher = None
