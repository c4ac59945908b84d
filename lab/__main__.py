"""python -m lab: the lab's command line."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import requests
from docker.errors import DockerException

from . import faults, probe
from .api import STEPS, Lab, LabError, Stack, named
from .stack import DEFAULT, SEARCH_FLAVORS, STACKS, parse_override
from .topology import BACKENDS, BY_NAME, FRONTENDS, MASTER

DEADLINE = 3600.0


def _up(lab: Lab, args: argparse.Namespace) -> int:
    lab.up(_asked(args), args.until, args.fresh)
    if args.until == STEPS[-1]:
        print(lab.cluster_status(), end="")
    return 0


def _asked(args: argparse.Namespace) -> Stack | None:
    """The stack that the options name, and what they change of it; None if they say nothing."""
    given = {name: getattr(args, name) for name in ("postgresql", "search", "profile")}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if args.set:
        changes["overrides"] = tuple(sorted(parse_override(text) for text in args.set))
    if not changes and args.stack is None:
        return None
    return dataclasses.replace(STACKS[args.stack or DEFAULT.name], **changes)


def _down(lab: Lab, args: argparse.Namespace) -> int:
    lab.down(images=args.images, stop_engine=args.engine)
    return 0


def _status(lab: Lab, _: argparse.Namespace) -> int:
    rows = lab.status()
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _exec(lab: Lab, args: argparse.Namespace) -> int:
    return _pass_on(lab, args.node, _after_dashes(args.command))


def _salt(lab: Lab, args: argparse.Namespace) -> int:
    return _pass_on(lab, MASTER.name, ["salt", *_after_dashes(args.arguments)])


def _fault(lab: Lab, args: argparse.Namespace) -> int:
    print(lab.fault(args.kind, args.node))
    return 0


def _heal(lab: Lab, args: argparse.Namespace) -> int:
    lab.heal(args.node)
    return 0


def _probe(lab: Lab, args: argparse.Namespace) -> int:
    result = lab.probe_for(args.seconds)
    print(probe.summary(result) if args.summary else result.as_json())
    return 0


def _shop(lab: Lab, args: argparse.Namespace) -> int:
    print(lab.shop_for(args.seconds))
    return 0


def _replace(lab: Lab, args: argparse.Namespace) -> int:
    lab.replace(args.node)
    return 0


def _pass_on(lab: Lab, node: str, command: Sequence[str]) -> int:
    if not command:
        raise LabError("no command was given: put it after --")
    ran = lab.machines.run(named(node), command, DEADLINE)
    sys.stdout.write(ran.out)
    sys.stderr.write(ran.err)
    return ran.rc


def _after_dashes(words: list[str]) -> list[str]:
    return words[1:] if words[:1] == ["--"] else words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="A chefha cluster in containers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Lab, argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words)
        sub.set_defaults(run=run)
        return sub

    up = command("up", _up, "engine, image, machines, project, states: whatever is missing")
    up.add_argument("--stack", choices=list(STACKS), help=f"parts and machines (default {DEFAULT.name})")
    up.add_argument("--postgresql", type=int, choices=(13, 17), help="another major version than the stack's")
    up.add_argument("--search", choices=SEARCH_FLAVORS, help="another search engine than the stack's")
    up.add_argument("--profile", choices=("fast", "balanced", "patient"), help="timing profile (default fast)")
    up.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="pillar below chefha:, a:b=c")
    up.add_argument("--until", choices=STEPS, default=STEPS[-1], help="stop after this step")
    up.add_argument("--fresh", action="store_true", help="deploy and apply the states even if nothing changed")
    down = command("down", _down, "remove containers, volumes and network")
    down.add_argument("--images", action="store_true", help="the images as well")
    down.add_argument("--engine", action="store_true", help="stop the engine if the lab started it")
    command("status", _status, "the machines and what is wrong with them")
    execute = command("exec", _exec, "run a command on a node; its exit code is passed on")
    execute.add_argument("node", choices=list(BY_NAME))
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    salt = command("salt", _salt, "run salt on the master")
    salt.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGS")
    fault = command("fault", _fault, "make a node fail")
    fault.add_argument("kind", choices=list(faults.FAULTS))
    fault.add_argument("node", choices=list(BY_NAME))
    heal = command("heal", _heal, "undo every fault on a node")
    heal.add_argument("node", choices=list(BY_NAME))
    replace = command("replace", _replace, "throw a machine away and put a bare one in its place")
    replace.add_argument("node", choices=[node.name for node in (*BACKENDS, *FRONTENDS)])
    shop = command("shop", _shop, "put, get and search objects through both front ends, and tell what it was like")
    shop.add_argument("--seconds", type=float, default=10.0, help="default 10, at most 300")
    measure = command("probe", _probe, "write through the VIP and tell what it was like")
    measure.add_argument("--seconds", type=float, default=20.0, help=f"default 20, at most {probe.MAX_SECONDS:.0f}")
    measure.add_argument("--summary", action="store_true", help="lines for people instead of JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 1 and a sentence on stderr for what the lab can't do."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(Lab(), args))
    except (LabError, DockerException, requests.RequestException, subprocess.TimeoutExpired) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
