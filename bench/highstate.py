"""python -m bench.highstate: from empty machines to a whole cluster in one highstate, and what the second one takes.

A lab from nothing each time (its image stays), so a lab that is up is lost. PostgreSQL counts as ready when the leader
has the VIP and both followers stream, from the last package on the last member on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lab.api import STACKS, Lab, LabError, Stack
from lab.stack import DEFAULT
from lab.timing import of_parts, postgresql_ready

from .report import store
from .surroundings import machine

#: seconds that a highstate may take at all
PATIENCE = 900.0
COLUMNS = {"highstate": "all", "PostgreSQL ready": "ready", "second highstate": "second"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the table on stdout, all numbers in bench/results."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m bench.highstate", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="labs from nothing (3)")
    parser.add_argument("--stack", choices=sorted(STACKS), default=DEFAULT.name)
    args = parser.parse_args(given)
    lab, began = Lab(), datetime.now().astimezone()
    try:
        lab.up(STACKS[args.stack], until="image")
        head = {"command": " ".join(["python -m bench.highstate", *given]), "machine": machine()}
        runs = [one_run(lab, STACKS[args.stack]) for _ in range(args.runs)]
    except LabError as error:
        print(f"bench.highstate: {error}", file=sys.stderr)
        return 1
    path = store(f"{began:%Y-%m-%d-%H%M}-highstate", {**head, "runs": runs})
    print(table(runs) + f"\n\nall numbers: {path}")
    return 0


def one_run(lab: Lab, stack: Stack) -> dict[str, Any]:
    """Seconds of the first highstate by machine and part, until PostgreSQL was ready, and of the second one."""
    lab.down()
    lab.up(stack)
    first = dict(lab.applied)
    began = time.monotonic()
    again = lab.salt("*", "state.apply", timeout=PATIENCE)
    second = time.monotonic() - began
    changed = [key for answer in again.values() for key, row in answer.items() if row["changes"]]
    if changed:
        raise LabError(f"the second highstate changed {', '.join(changed)}")
    parts = {minion: of_parts(answer) for minion, answer in first.items()}
    longest = max(sum(row.values()) for row in parts.values())
    return {"all": longest, "ready": postgresql_ready(first), "second": second, "parts": parts}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Seconds: min, median, max."""
    lines = [f"{'seconds':<20}{'min':>8}{'median':>8}{'max':>8}"]
    for name, key in COLUMNS.items():
        found = [run[key] for run in runs]
        lines.append(f"{name:<20}{min(found):>8.1f}{statistics.median(found):>8.1f}{max(found):>8.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
