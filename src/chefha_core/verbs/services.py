"""start, stop, restart, once, hup, term, kill, tail, service-list: this node's services through systemd.

What each of them means is a table in docs/services.md; what is refused, and why, is in service_rules.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chefha_core import codec
from chefha_core.parts import systemd
from chefha_core.parts.etcd import EtcdError
from chefha_core.parts.postgres_tools import Places
from chefha_core.parts.systemd import UnitError, UnitState
from chefha_core.settings import Settings
from chefha_core.verbs.handover import unfitness
from chefha_core.verbs.reach import PATIENCE, VerbError, etcd_client, leaderl_status
from chefha_core.verbs.service_rules import KNOWS_HUP, Situation, refusal
from chefha_core.verbs.status import local, units_of
from chefha_core.verbs.steps import OnStep, StepLog, nobody_looks

#: seconds between two looks at a unit
LOOK = 0.1
SIGNALS = {"hup": signal.SIGHUP, "term": signal.SIGTERM, "kill": signal.SIGKILL}
VERBS = ("start", "stop", "restart", "once", *SIGNALS)
#: drop-in of a service that is started once: gone at the next boot, and at the next start, stop or restart
ONCE = "/run/systemd/system/{unit}.d/chefha-once.conf"
ONCE_TEXT = "# chef-backend-ctl once\n[Service]\nRestart=no\n"
MINION_LOG = "/var/log/salt/minion"


def services_of(settings: Settings, name: str) -> dict[str, str]:
    """chefha's services of this node and their units, in the order of a start."""
    units = units_of(settings, name)
    order = ("etcd", settings.search.flavor, "leaderl", "postgresql", "salt-minion")
    return {key: units[key] for key in order if key in units and not (key == "etcd" and settings.etcd_endpoints)}


def service_list(settings: Settings, name: str) -> dict[str, Any]:
    """Each service: its unit, whether it starts at boot, and how it is."""
    rows = {}
    for key, unit in services_of(settings, name).items():
        state = _look(unit)
        enabled = "by leaderl" if key == "postgresql" else state.enabled
        rows[key] = {"unit": unit, "enabled": enabled, "state": "running" if state.running else state.active}
    return {"services": rows}


def control(
    settings: Settings,
    name: str,
    verb: str,
    service: str = "",
    timeout: float = 120.0,
    through_salt: bool = False,
    on_step: OnStep = nobody_looks,
) -> dict[str, Any]:
    """Carry out one of VERBS on one service, or on all but salt-minion; VerbError if it is refused or does not happen.

    ``timeout``: seconds for all of it. The answer has the services as they are then, and the steps.
    """
    if verb not in VERBS:
        raise VerbError(f"{verb}: no such verb; there are {', '.join(VERBS)}")
    known = services_of(settings, name)
    refused = refusal(_situation(settings, name, verb, service, through_salt))
    if refused:
        raise VerbError(refused)
    work = _Work(settings, known, time.monotonic() + timeout, StepLog(on_step))
    for key in [service] if service else _in_order(verb, known):
        work.carry_out(verb, key)
    return {"services": local({service: known[service]} if service else known), "steps": work.steps.rows}


def tail_sources(settings: Settings, name: str, service: str = "") -> tuple[list[str], list[str]]:
    """Units whose journal, and files, have the logs of a service or of all; VerbError if there is no such service."""
    known = services_of(settings, name)
    if service and service not in known:
        raise VerbError(f"tail {service}: no such service on this node; there are {', '.join(known)}")
    chosen = [service] if service else list(known)
    files = {
        "salt-minion": MINION_LOG,
        settings.search.flavor: f"{settings.search.log_dir}/{settings.cluster}.log",
    }
    there = [files[key] for key in chosen if key in files and Path(files[key]).is_file()]
    return [known[key] for key in chosen], there


def tail(settings: Settings, name: str, service: str = "", lines: int = 50) -> dict[str, list[str]]:
    """The last lines of the journal and of each log file."""
    units, files = tail_sources(settings, name, service)
    try:
        found = {"journal": systemd.journal(units, lines)}
    except UnitError as error:
        raise VerbError(f"tail {service}".strip() + f": {error}") from None
    for file in files:
        with contextlib.suppress(OSError), Path(file).open(encoding="utf-8", errors="replace") as log:
            found[file] = [line.rstrip("\n") for line in deque(log, lines)]
    return found


def follow(settings: Settings, name: str, service: str, lines: int) -> None:
    """Show the logs as they grow, until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or the two below would go on
    units, files = tail_sources(settings, name, service)
    chosen = [word for unit in units for word in ("--unit", unit)]
    commands = [["journalctl", "--follow", "--quiet", "--output=short-iso", f"--lines={lines}", *chosen]]
    if files:
        commands.append(["tail", "-n", str(lines), "-F", *files])
    running = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for command in commands]
    try:
        for process in running:
            process.wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one, to the whole group, changes nothing any more
        for process in running:
            process.terminate()
            process.wait()


def _situation(settings: Settings, name: str, verb: str, service: str, through_salt: bool) -> Situation:
    """Look only as far as the verb needs: a start must not wait for an etcd that is down."""
    known = services_of(settings, name)
    running = frozenset(key for key, unit in known.items() if (state := _look(unit)).running or state.pid)
    leads, eligible = False, ()  # type: tuple[bool, tuple[str, ...] | None]
    if verb in ("stop", "restart", "term", "kill") and service in ("", "postgresql", "leaderl") and "leaderl" in known:
        leads, eligible = leadership(settings, name, "postgresql" in running)
    standby = Places.of(settings).standby_signal.exists()
    return Situation(verb, service, tuple(known), running, leads, eligible, standby, through_salt)


def leadership(settings: Settings, name: str, postgresql_runs: bool) -> tuple[bool, tuple[str, ...] | None]:
    """Whether this node leads, and who could take over (None: etcd does not answer).

    leaderl knows; where it is silent the key in etcd counts, and where that is silent too, what PostgreSQL is.
    """
    try:
        role = leaderl_status().get("role")
    except VerbError:
        role = None
    client = etcd_client(settings, name, PATIENCE)
    try:
        view = codec.view(client.range(), time.monotonic())
    except (EtcdError, codec.DamagedKey, OSError):
        primary = postgresql_runs and not Places.of(settings).standby_signal.exists()
        return (role in ("leader", "promoting") if role else primary), None
    finally:
        client.close()
    eligible = tuple(other for other in settings.members if other != name and not unfitness(settings, view, other))
    named = view.leader is not None and view.leader.name == name
    return (role in ("leader", "promoting") if role else named), eligible


def _in_order(verb: str, known: Mapping[str, str]) -> list[str]:
    """All services that the verb is about: a stop begins with leaderl, which would start PostgreSQL again."""
    chosen = [key for key in known if key != "salt-minion"]
    if verb == "hup":
        return [key for key in chosen if key in KNOWS_HUP]
    if verb in ("start", "once"):
        return [key for key in chosen if key != "postgresql"]  # leaderl's business
    first = [key for key in ("leaderl", "postgresql") if key in chosen]
    return first + [key for key in reversed(chosen) if key not in first]


def _look(unit: str) -> UnitState:
    try:
        return systemd.look(unit)
    except UnitError as error:
        raise VerbError(f"systemd on this node does not answer: {error}") from None


@dataclass
class _Work:
    """One verb after the other, each waited for."""

    settings: Settings
    known: Mapping[str, str]
    end: float
    steps: StepLog

    def carry_out(self, verb: str, key: str) -> None:
        unit, before = self.known[key], _look(self.known[key])
        try:
            if verb in SIGNALS:
                self._signal(verb, key, unit, before)
            else:
                getattr(self, f"_{verb}")(key, unit, before)
        except (UnitError, OSError) as error:
            self.steps.done(f"{verb} {key}", "failed")
            raise VerbError(f"{verb} {key}: {error}") from None

    def _start(self, key: str, unit: str, before: UnitState) -> None:
        _forget_once(unit)
        if before.running:
            return self.steps.done(f"{key} runs already (pid {before.pid})")
        if key == "postgresql" and _look(self.known["leaderl"]).running:
            waits = "leaderl starts it"  # when there is a leader to follow, or to be
        else:
            with contextlib.suppress(UnitError):
                systemd.systemctl("reset-failed", unit)
            systemd.ask("start", unit)
            waits = "it was asked to start"
        self._await(f"start {key}", unit, lambda now: now.running and now.pid > 0, waits)
        self.steps.done(f"{key} started")

    def _stop(self, key: str, unit: str, before: UnitState) -> None:
        _forget_once(unit)
        if before.down:
            return self.steps.done(f"{key} is stopped already")
        systemd.ask("stop", unit)
        self._await(f"stop {key}", unit, lambda now: now.down, "it was asked to stop")
        self.steps.done(f"{key} stopped")

    def _restart(self, key: str, unit: str, before: UnitState) -> None:
        if before.down:
            return self._start(key, unit, before)
        _forget_once(unit)
        systemd.ask("restart", unit)
        again = "it was asked to restart"
        self._await(f"restart {key}", unit, lambda now: now.running and now.pid not in (0, before.pid), again)
        self.steps.done(f"{key} restarted")

    def _once(self, key: str, unit: str, before: UnitState) -> None:
        place = Path(ONCE.format(unit=unit))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(ONCE_TEXT, encoding="ascii")
        systemd.systemctl("daemon-reload")
        if not before.running:
            systemd.ask("start", unit)
            self._await(f"once {key}", unit, lambda now: now.running and now.pid > 0, "it was asked to start")
        self.steps.done(f"{key} runs, and will not be started again when it ends")

    def _signal(self, verb: str, key: str, unit: str, before: UnitState) -> None:
        if not before.pid:
            return self.steps.done(f"{key} does not run")
        # to PostgreSQL SIGTERM means: wait for all clients, and leaderl's own session never ends
        number = signal.SIGINT if (key, verb) == ("postgresql", "term") else SIGNALS[verb]
        os.kill(before.pid, number)
        if verb != "hup":
            self._await(f"{verb} {key}", unit, lambda now: now.pid != before.pid, f"pid {before.pid} got the signal")
        self.steps.done(f"{key} (pid {before.pid}) got {number.name}")

    def _await(self, asked: str, unit: str, so: Callable[[UnitState], bool], waits: str) -> None:
        while not so(now := _look(unit)):
            if time.monotonic() > self.end:
                words = "; ".join(line.strip() for line in systemd.journal([unit], 3))
                self.steps.done(asked, "failed")
                raise VerbError(
                    f"{asked}: {waits}, and after {time.monotonic() - self.steps.began:.0f} s it is {now.active}; "
                    f"its last words: {words or 'none'}"
                )
            time.sleep(LOOK)


def _forget_once(unit: str) -> None:
    place = Path(ONCE.format(unit=unit))
    if place.exists():
        place.unlink()
        systemd.systemctl("daemon-reload")
