"""What the groups of verbs share: how a verb is declared, what it prints, what it asks back."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from chefha_core.node import own_name
from chefha_core.settings import Settings, load
from chefha_core.verbs.reach import VerbError

#: carries out a verb; its exit code, None for 0
Run = Callable[[argparse.Namespace], int | None]


class Parsers:
    """The command and its verbs."""

    def __init__(self) -> None:
        self.root = argparse.ArgumentParser(
            prog="chef-backend-ctl", description="operates one node of a chefha cluster"
        )
        self._verbs = self.root.add_subparsers(dest="verb", required=True, metavar="VERB")

    @property
    def verbs(self) -> dict[str, argparse.ArgumentParser]:
        """Those that were declared, by name."""
        return dict(self._verbs.choices)

    def verb(self, name: str, run: Run, help: str, *, aliases: tuple[str, ...] = ()) -> argparse.ArgumentParser:
        """Declare a verb; `run` gets the parsed arguments."""
        made = self._verbs.add_parser(name, help=help, description=help, aliases=aliases)
        made.set_defaults(run=run)
        return made


def takes_json(made: argparse.ArgumentParser) -> None:
    """--json: the answer as data."""
    made.add_argument("--json", action="store_true", help="print JSON, with more in it")


def takes_timeout(made: argparse.ArgumentParser, seconds: float = 30.0) -> None:
    """--timeout S."""
    made.add_argument("--timeout", type=float, default=seconds, metavar="S", help=f"seconds it may take ({seconds:g})")


def takes_yes(made: argparse.ArgumentParser) -> None:
    """-y, --yes: for a verb that calls `confirm`."""
    made.add_argument("-y", "--yes", action="store_true", help="do not ask back")


def confirm(wanted: argparse.Namespace, what: str) -> None:
    """Ask back before a destructive verb, on stderr: stdout has the answer. VerbError if it is no (so is Ctrl-D), or if
    there is nobody to ask.
    """
    if wanted.yes:
        return
    if not sys.stdin.isatty():
        raise VerbError(f"{wanted.verb}: {what}; there is no terminal to ask at: give --yes if that is wanted")
    print(f"{what}\nGo on? [y/N] ", end="", file=sys.stderr, flush=True)
    said = sys.stdin.readline()
    if not said.endswith("\n"):  # Ctrl-D: what comes next begins a line
        print(file=sys.stderr)
    if said.strip().lower() not in ("y", "yes"):
        raise VerbError(f"{wanted.verb}: not confirmed, so nothing was changed")


def node() -> tuple[Settings, str]:
    """Settings of this node as the states wrote them, and its name."""
    settings = load()
    return settings, own_name(settings)


def show(data: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print an answer, for people or as JSON."""
    print(json.dumps(data, indent=2) if as_json else text)


def show_step(step: Mapping[str, Any]) -> None:
    """A line per step of something that takes a while, on stderr: stdout has the answer."""
    print(f"{step['seconds']:8.3f} s  {step['outcome']:11}  {step['step']}", file=sys.stderr, flush=True)
