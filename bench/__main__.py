"""python -m bench: hand-over and every fault, several times each, in the lab; a table, and all numbers as JSON."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from lab.api import STACKS, Lab, LabError

from . import report, surroundings
from .peer.patroni import Patroni
from .runs import Run, carry_out, status_times
from .scenarios import SCENARIOS, Scenario
from .subject import Chefha, Subject

STATUS_TIMES = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for. 1 if the lab could not be had or a run failed."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(given)
    bare, lab = STACKS["bare"], Lab()
    asked = replace(bare, postgresql=args.stack or bare.postgresql, profile=args.profile or bare.profile)
    try:
        lab.up(asked if args.stack or args.profile else None, default=bare)
        lab.heal_all()
        return _bench(lab, args, " ".join(["python -m bench", *given]))
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _bench(lab: Lab, args: argparse.Namespace, command: str) -> int:
    chefha, began = Chefha(lab), datetime.now().astimezone()
    subjects: list[Subject] = [chefha, *([Patroni(lab, True), Patroni(lab, False)] if args.peer else [])]
    head: dict[str, Any] = {
        "command": command,
        "began_at": began.isoformat(timespec="seconds"),
        "machine": surroundings.machine(),
        "stack": surroundings.stack(lab),
        "subjects": {subject.name: dict(subject.versions()) for subject in subjects},
    }
    name, runs, status = f"{began:%Y-%m-%d-%H%M}", list[Run](), dict[str, Any]()
    for scenario in (SCENARIOS[kind] for kind in args.only or SCENARIOS):
        print(f"{scenario.name}: {scenario.sentence}", flush=True)
        for subject in subjects[: 1 if scenario.own else None]:
            for run in _runs(lab, subject, scenario, args.runs):
                runs.append(run)
                print("  " + report.progress(run, args.runs), flush=True)
                report.write(name, head, runs, status)
    if not args.only:
        status[chefha.name] = status_times(lab, chefha, STATUS_TIMES)
    head["seconds"] = round(time.time() - began.timestamp())
    path = report.write(name, head, runs, status)
    print(f"\n{report.table(runs)}\n{report.status_lines(status)}\n\nall numbers: {path}")
    return 1 if any(run.error for run in runs) else 0


def _runs(lab: Lab, subject: Subject, scenario: Scenario, count: int) -> Iterator[Run]:
    """The scenario so many times with this product at work."""
    try:
        subject.begin()
        for number in range(count):
            yield carry_out(lab, subject, scenario, number)
    finally:
        subject.end()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=_at_least_one, default=5, help="of each scenario (5)")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), metavar="KIND", help=", ".join(SCENARIOS))
    parser.add_argument("--peer", action="store_true", help="measure Patroni with vip-manager beside it, turn by turn")
    parser.add_argument("--stack", type=int, choices=(13, 17), help="PostgreSQL's major version (that of the lab, 17)")
    parser.add_argument("--profile", choices=("fast", "balanced", "patient"), help="timing profile (that of the lab)")
    return parser


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
