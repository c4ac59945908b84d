"""What a layout asks for: calls of Salt's own states, as data. `_states/chefha.py` carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONFIG = "/etc/chefha"
DATA = "/var/lib/chefha"
UNITS = "/etc/systemd/system"


@dataclass(frozen=True)
class Wish:
    """One call of a Salt state.

    ``restart`` names a unit to restart if an earlier wish of the layout changed something, ``in_turn``: one member
    after the other; a wish with ``after_change`` is carried out only then. ``only_if`` is a shell command that changes
    nothing, also run in test mode: the wish is carried out only if it succeeds.
    """

    state: str
    arguments: Mapping[str, Any]
    restart: str = ""
    after_change: bool = False
    only_if: str = ""
    in_turn: bool = False


def text_file(path: str, text: str, owner: str = "root", mode: str = "0644", secret: bool = False) -> Wish:
    """A file with exactly this text; a secret one shows no differences."""
    arguments = {"name": path, "contents": text.rstrip("\n"), "user": owner, "group": owner, "mode": mode}
    return Wish("file.managed", {**arguments, "show_changes": not secret})


def folder(path: str, owner: str = "root", mode: str = "0755") -> Wish:
    """A folder; what is inside keeps its owners."""
    return Wish("file.directory", {"name": path, "user": owner, "group": owner, "mode": mode, "makedirs": True})


def unit_file(name: str, text: str) -> Wish:
    """A systemd unit of our own."""
    return text_file(f"{UNITS}/{name}", text)


def absent(path: str) -> Wish:
    """No such file."""
    return Wish("file.absent", {"name": path})


def masked(unit: str) -> Wish:
    """What `systemctl mask` does, also before the package that brings the unit is there."""
    return Wish("file.symlink", {"name": f"{UNITS}/{unit}", "target": "/dev/null", "force": True})


def link(path: str, target: str) -> Wish:
    """A symbolic link; what it points to may come later."""
    return Wish("file.symlink", {"name": path, "target": target, "force": True})


def running(unit: str, in_turn: bool = False) -> Wish:
    """Started now and at boot, restarted when its files changed; ``in_turn``: one member after the other."""
    return Wish("service.running", {"name": unit, "enable": True}, restart=unit, in_turn=in_turn)


def stopped(unit: str) -> Wish:
    """Stopped now."""
    return Wish("service.dead", {"name": unit})


def units_known() -> Wish:
    """systemd reads its units again, where one has changed that nothing here restarts."""
    return Wish("cmd.run", {"name": "systemctl daemon-reload"}, after_change=True)


def reloaded(unit: str) -> Wish:
    """Asked to read its changed files, if it runs."""
    command = f"if systemctl is-active --quiet {unit}; then systemctl reload {unit}; fi"
    return Wish("cmd.run", {"name": command}, after_change=True)
