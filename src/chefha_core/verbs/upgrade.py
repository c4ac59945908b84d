"""upgrade of this member: what the pillar and the master's files say now, and the services that run it.

The whole cluster must be well before and is waited for after; a leader hands over first. The states are applied by a
process of their own (salt-call), because they replace the very library this one has loaded. ``rolling`` upgrades all.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from chefha_core.layout.base import package_names
from chefha_core.parts import salt_call
from chefha_core.parts.salt_call import SaltFailed
from chefha_core.settings import Settings
from chefha_core.verbs import cluster_status, handover, in_turn, member, status
from chefha_core.verbs.reach import VerbError, leaderl_status
from chefha_core.verbs.steps import OnStep, Steps, nobody_looks

#: seconds in which a cluster that is asked whether it is well may become so: a report can be a moment old
PATIENCE = 5.0
#: seconds for a hand-over
HANDOVER = 60.0
WELL, HANDED_OVER, APPLIED = "the cluster is well", "another member leads", "states applied"
RESTARTED = "{unit} restarted with its new program"


class Machine(Protocol):
    """What an upgrade asks of a member."""

    def look(self) -> Mapping[str, Any]:
        """The cluster as cluster_status has it, with ``etcd_problem``."""

    def hand_over(self) -> str:
        """This member gives up leading; who leads now."""

    def packages(self, test: bool, timeout: float) -> list[str]:
        """Debian's packages made as new as the sources have them; which changed, or would."""

    def apply(self, test: bool, timeout: float) -> list[str]:
        """States applied; which changed something, or would."""

    def outdated(self) -> list[str]:
        """Units whose program was replaced since they started."""

    def restart(self, unit: str, timeout: float) -> None:
        """Restart one of them in this member's turn."""


class _Progress(Steps):
    DIGITS = 1


def check(settings: Settings, name: str, machine: Machine | None = None) -> dict[str, Any]:
    """Who leads, if an upgrade could begin now; VerbError if it could not. Changes nothing."""
    return {"leader": _well("upgrade is refused", machine or Member.of(settings, name), PATIENCE)["leader"]}


def upgrade(
    settings: Settings,
    name: str,
    failover: bool = False,
    packages: bool = False,
    timeout: float = 900.0,
    on_step: OnStep = nobody_looks,
    machine: Machine | None = None,
) -> dict[str, Any]:
    """This member becomes what the pillar says; with ``failover`` it hands over first if it leads and anything would
    change, with ``packages`` PostgreSQL's and etcd's packages are renewed too. VerbError, with where it ended.
    """
    machine, progress = machine or Member.of(settings, name), _Progress((WELL, APPLIED, WELL), on_step)
    leads = _well("upgrade is refused", machine, PATIENCE)["leader"] == name
    progress.done(WELL)
    if leads and not failover:
        raise VerbError(
            f"upgrade: {name} leads; upgrade the followers first, then this one with --failover, which hands over first"
        )
    if leads:
        progress.then(HANDED_OVER)
    with progress.rest():
        try:
            if leads and not _pending(machine, packages, progress.left(timeout)):
                progress.done("nothing to change")
                return {"node": name, "changed": [], "steps": progress.rows}
            changed = _carry_out(machine, leads, packages, progress, timeout)
        except SaltFailed as error:
            raise VerbError(f'upgrade of {name}, after "{progress.rows[-1]["step"]}": {error}') from None
        _well(f"upgrade of {name}: the states are applied, but", machine, progress.left(timeout))
        progress.done(WELL)
    return {"node": name, "changed": changed, "steps": progress.rows}


def _carry_out(machine: Machine, leads: bool, packages: bool, progress: _Progress, timeout: float) -> list[str]:
    """Hand over if this member leads, renew, apply, restart; what changed. SaltFailed, VerbError."""
    if leads:
        progress.done(f"{machine.hand_over()} leads")
        _well("after the hand-over", machine, progress.left(timeout))
    renewed = machine.packages(False, progress.left(timeout)) if packages else []
    changed = [*renewed, *machine.apply(False, progress.left(timeout))]
    progress.done(f"{APPLIED}: {', '.join(changed) or 'nothing changed'}")
    units = machine.outdated()
    progress.then(*(RESTARTED.format(unit=unit) for unit in units))
    for unit in units:
        machine.restart(unit, progress.left(timeout))
        progress.done(RESTARTED.format(unit=unit))
    return [*changed, *units]


def _pending(machine: Machine, packages: bool, timeout: float) -> list[str]:
    """What an upgrade would change."""
    renewed = machine.packages(True, timeout) if packages else []
    return [*renewed, *machine.outdated(), *machine.apply(True, timeout)]


def _well(asked: str, machine: Machine, patience: float) -> Mapping[str, Any]:
    """The cluster, once it is well; VerbError with what is not, after ``patience`` seconds."""
    end = time.monotonic() + patience
    while why := unwell(report := machine.look()):
        if time.monotonic() > end:
            raise VerbError(f"{asked}: the cluster is not well: {'; '.join(why)}")
        time.sleep(0.5)
    return report


def unwell(report: Mapping[str, Any]) -> list[str]:
    """Why a cluster must not lose another member now, as it is in cluster_status; pure."""
    why = [f"{asked}: {problem}" for asked, problem in report["problems"].items()]
    if report["etcd_problem"]:
        why.append(report["etcd_problem"])
    if report["leader_state"] != "leading":
        why.append(f"{report['leader']} is {report['leader_state']}" if report["leader"] else "there is no leader")
    if report["failover"] is False:
        why.append("failover is off for the cluster (set-cluster-failover on)")
    for row in report["members"]:
        wanted = ("leader", "leader") if row["name"] == report["leader"] else ("follower", "follower")
        if (row["role"], row["pg"]) != wanted:
            why.append(f"{row['name']} is {row['role']}, its PostgreSQL {row['pg']}: {row['reason']}")
        if report["search"] and row["search"] == "offline":
            why.append(f"search on {row['name']} is offline")
    return why


@dataclass(frozen=True)
class Member:
    """This machine."""

    settings: Settings
    name: str

    @classmethod
    def of(cls, settings: Settings, name: str) -> Member:
        """VerbError on a front end."""
        if name not in settings.members:
            raise VerbError(f"upgrade: {name} is a front end, which its states bring up to date: salt-call state.apply")
        return cls(settings, name)

    def look(self) -> Mapping[str, Any]:
        """The cluster as cluster_status has it, with ``etcd_problem``."""
        settings, name = self.settings, self.name
        report = cluster_status.report(settings, cluster_status.ask(settings, name, cluster_status.DEADLINE))
        etcd = (
            "" if settings.etcd_endpoints else in_turn.own_etcd(settings, name) or in_turn.other_etcds(settings, name)
        )
        return {**report, "etcd_problem": etcd}

    def hand_over(self) -> str:
        """Whoever is eligible leads now."""
        return str(handover.demote(self.settings, self.name, HANDOVER)["leader"])

    def packages(self, test: bool, timeout: float) -> list[str]:
        """Only what is installed is renewed; nothing new comes."""
        newer = salt_call.salt_call("pkg.list_upgrades", "refresh=True", timeout=timeout)
        names = sorted(set(newer) & set(package_names(self.settings)))
        if names and not test:
            salt_call.salt_call("pkg.install", f"pkgs={json.dumps(names)}", "only_upgrade=True", timeout=timeout)
        return names

    def apply(self, test: bool, timeout: float) -> list[str]:
        """chefha's states, after whatever other states are being applied."""
        salt_call.salt_call("saltutil.sync_all", timeout=timeout)  # of its own: the next process loads what it brings
        return list(salt_call.apply("chefha", "queue=True", f"test={test}", timeout=timeout).changed)

    def outdated(self) -> list[str]:
        """By the kernel: the file that the main process was started from is gone."""
        units = status.units_of(self.settings, self.name)
        rows = status.local({key: unit for key, unit in units.items() if key not in ("leaderl", "salt-minion")})
        return [units[key] for key, row in rows.items() if row["pid"] and replaced(Path(f"/proc/{row['pid']}/exe"))]

    def restart(self, unit: str, timeout: float) -> None:
        """etcd and search in this member's turn; PostgreSQL of a follower is stopped: only leaderl starts it."""
        if unit in in_turn.WELL:
            in_turn.restart_in_turn(self.settings, self.name, unit, timeout)
            return
        if leaderl_status()["role"] == "leader":
            raise VerbError(f"upgrade of {self.name}: it leads again, so {unit} is not restarted; try again")
        try:
            subprocess.run(["systemctl", "stop", unit], capture_output=True, timeout=timeout, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise VerbError(f"upgrade of {self.name}: {unit} could not be stopped: {error}") from None

        def problem() -> str:
            runs = status.local({unit: unit})[unit]["state"] == "running"
            return member.member_problem() if runs else f"leaderl has not started {unit} yet"

        member.wait_until_well(problem, timeout)


def replaced(exe: Path) -> bool:
    """Whether the program behind a link of /proc is no longer on the disk, as after a package's upgrade."""
    try:
        return str(exe.readlink()).endswith(" (deleted)")
    except OSError:
        return False
